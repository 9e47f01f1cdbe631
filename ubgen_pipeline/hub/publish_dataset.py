"""Publish a finished local dataset on the Hub, in groups of shards with a card in each commit."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..commands.console import say
from ..commands.settings_parser import field_help, name_leading, parse_settings, run_command
from ..dataset.card import stored_card_maker
from ..dataset.shards import Shard, open_dataset
from .access import check_repo_id
from .streamed_dataset import HubDataset


@dataclass(frozen=True)
class PublishSettings:
    """Settings of ``ubgen publish``."""

    folder: str = field_help("a finished dataset that ubgen generate has written")
    repo_id: str = field_help("owner/name of the dataset on the Hub")
    private: bool = field_help("create it private", False)
    shards_per_commit: int = field_help("shards that make a commit", 32)

    def __post_init__(self) -> None:
        check_repo_id("repo_id", self.repo_id)
        if self.shards_per_commit < 1:
            raise ValueError(f"shards_per_commit is {self.shards_per_commit}; give an integer of at least 1.")


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen publish FOLDER OWNER/NAME``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(
        PublishSettings,
        name_leading(argv, ["folder", "repo_id"]),
        prog="ubgen publish",
        description=__doc__,
    )
    publish_dataset(settings)


def publish_dataset(settings: PublishSettings) -> None:
    """Push the shards that the Hub lacks, and the card. A card that was edited by hand goes up as it is.

    Raises:
        ValueError: a folder that holds no finished dataset of ubgen's, or what :class:`HubDataset` refuses.
    """
    from ubgen_hub_cards.dataset_card import with_bias_report

    shards = open_dataset(settings.folder)
    own_card = (shards.folder / "README.md").read_text(encoding="utf-8")
    local_maker = stored_card_maker(shards, own_card)
    as_written = local_maker(shards.shards, shards.num_bytes())
    maker = stored_card_maker(shards, own_card, settings.repo_id)
    if (report := local_maker.bias_report()) is not None:
        own_card = with_bias_report(own_card, report)

    def card(present: Sequence[Shard], num_bytes: int) -> str:
        if own_card != as_written and len(present) == len(shards.shards):
            return own_card
        return maker(present, num_bytes)

    hub = HubDataset(
        settings.repo_id,
        shards,
        card,
        private=settings.private,
        keep_local=True,
        shards_per_commit=settings.shards_per_commit,
    )
    hub.open()
    hub.flush()
    say(f"{settings.repo_id}: {len(shards.shards)} shards of {shards.folder}")

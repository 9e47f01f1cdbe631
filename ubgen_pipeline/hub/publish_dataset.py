"""Publish a finished local dataset on the Hub, in groups of shards with a card in each commit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from ..commands.console import say
from ..commands.settings_parser import field_help, name_leading, parse_settings, run_command
from ..dataset.card import says_how_it_was_drawn, stored_card_maker
from ..dataset.shards import DatasetShards, Shard, open_dataset
from ..files.places import check_is_local
from .access import check_may_write, check_repo_id, open_repository, retried
from .streamed_dataset import CARD, MANIFEST, REPO_TYPE, HubDataset


@dataclass(frozen=True)
class PublishSettings:
    """Settings of ``ubgen publish``."""

    folder: str = field_help("a finished dataset that ubgen generate, annotate, score or filter has written")
    repo_id: str = field_help("owner/name of the dataset on the Hub")
    private: bool = field_help("create it private", False)
    shards_per_commit: int = field_help("shards that make a commit", 32)
    replace: bool = field_help(
        "put this dataset in the place of another one of ubgen's that is there, such as the same rows before they were"
        " scored; in one commit",
        False,
    )

    def __post_init__(self) -> None:
        # what goes to the Hub is read from files
        check_is_local(self.folder, "folder")
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
    shards = open_dataset(settings.folder)
    card = _card_maker(shards, settings.repo_id)
    if settings.replace:
        replace_dataset(settings, shards, card(shards.shards, shards.num_bytes()))
        say(f"{settings.repo_id}: now the {len(shards.shards)} shards of {shards.folder}")
        return
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


def _card_maker(shards: DatasetShards, repo_id: str) -> Callable[[Sequence[Shard], int], str]:
    """Gives the card for the shards that are there and the size of their files."""
    from ubgen_hub_cards.dataset_card import with_bias_report

    own_card = (shards.folder / CARD).read_text(encoding="utf-8")
    if not says_how_it_was_drawn(shards.manifest):
        # a card of labelled images, say; it tells nothing that holds for all shards only
        return lambda present, num_bytes: own_card
    local_maker = stored_card_maker(shards, own_card)
    as_written = local_maker(shards.shards, shards.num_bytes())
    maker = stored_card_maker(shards, own_card, repo_id)
    if (report := local_maker.bias_report()) is not None:
        own_card = with_bias_report(own_card, report)

    def card(present: Sequence[Shard], num_bytes: int) -> str:
        if own_card != as_written and len(present) == len(shards.shards):
            return own_card
        return maker(present, num_bytes)

    return card


def replace_dataset(settings: PublishSettings, shards: DatasetShards, card: str) -> None:
    """Push a whole dataset in one commit, and leave nothing of the one that is there.

    Readers take the columns from the card and the rows from the files, so that a repository with some files of each
    would not load: a commit that was stopped leaves the old dataset, and what it had sent is not sent again.

    Raises:
        ValueError: no right to write, or a repository that holds something else than a dataset of ubgen's.
    """
    api, repo_id = HfApi(library_name="ubgen"), settings.repo_id
    check_may_write(api, repo_id)
    open_repository(api, repo_id, REPO_TYPE, private=settings.private)
    files = {f"data/{shards.file(shard).name}": shards.file(shard) for shard in shards.shards}

    def commit() -> None:
        information = api.dataset_info(repo_id)
        there = {sibling.rfilename for sibling in information.siblings or []}
        foreign = sorted(there - {".gitattributes", CARD})
        if foreign and MANIFEST not in there:
            raise ValueError(f"{repo_id!r} holds no dataset of ubgen's ({foreign[0]!r}); give a new name.")
        stale = sorted(name for name in there if name.startswith("data/") and name not in files)
        texts = {CARD: card.encode(), MANIFEST: shards.manifest_text(_batch_sizes(shards)).encode()}
        operations = [
            *(CommitOperationAdd(name, str(file)) for name, file in files.items()),
            *(CommitOperationAdd(name, content) for name, content in texts.items()),
            *map(CommitOperationDelete, stale),
        ]
        api.create_commit(
            repo_id,
            operations,
            commit_message=f"Replace the dataset by one of {len(files)} shards",
            repo_type=REPO_TYPE,
            parent_commit=information.sha,
        )

    retried(commit, f"pushing to {repo_id}", repo_id)


def _batch_sizes(shards: DatasetShards) -> dict[int, int]:
    """By shard number, the batch sizes that are not the settings' own."""
    sizes = {shard.number: shards.own_batch_size(shard) for shard in shards.shards}
    return {number: size for number, size in sizes.items() if size is not None}

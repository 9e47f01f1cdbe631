"""Publish a finished local dataset on the Hub, in groups of shards with a card in each commit."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .class_prompts import ClassName, label_names
from .dataset_facts import DatasetCardMaker, Generator
from .dataset_shards import STATE_FOLDER, DatasetShards, Shard
from .hub_access import check_repo_id
from .hub_datasets import HubDataset
from .settings_parser import field_help, name_leading, parse_settings, run_command


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
        description=(__doc__ or "").split("\n")[0],
    )
    publish_dataset(settings)


def publish_dataset(settings: PublishSettings) -> None:
    """Push the shards that the Hub lacks, and the card. A card that was edited by hand goes up as it is.

    Raises:
        ValueError: a folder that holds no finished dataset of ubgen's, or what :class:`HubDataset` refuses.
    """
    shards = open_dataset(settings.folder)
    classes = [ClassName(*entry[:3]) for entry in shards.manifest["class_names"]]
    first = _first_row(shards)
    generator = Generator(first["model"], first.get("lora"), first.get("model_revision"), first.get("lora_revision"))
    own_card = (shards.folder / "README.md").read_text(encoding="utf-8")
    licence = _licence(own_card)
    names, labels = label_names(classes), _labels(shards)
    as_written = DatasetCardMaker(shards, names, generator, labels, licence=licence)(shards.shards, shards.num_bytes())
    maker = DatasetCardMaker(shards, names, generator, labels, settings.repo_id, licence=licence)

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
    print(f"ubgen: {settings.repo_id}: {len(shards.shards)} shards of {shards.folder}", file=sys.stderr)


def open_dataset(folder: str | Path) -> DatasetShards:
    """The finished dataset in a folder, as its manifest describes it.

    Raises:
        ValueError: none is there, or it is not finished.
    """
    folder = Path(folder).expanduser()
    try:
        manifest = json.loads((folder / STATE_FOLDER / "manifest.json").read_text(encoding="utf-8"))["settings"]
        shards = DatasetShards(folder, manifest, manifest["num_samples"], manifest["samples_per_shard"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"folder is {str(folder)!r}, which holds no dataset that ubgen generate has made.") from error
    if not shards.is_finished():
        raise ValueError(
            f"folder is {str(folder)!r}, of whose {len(shards.shards)} shards {len(shards.missing())} are missing;"
            " run ubgen generate with the same settings again to finish it."
        )
    return shards


def _first_row(shards: DatasetShards) -> dict[str, Any]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(shards.file(shards.shards[0]))
    columns = [name for name in file.schema_arrow.names if name.startswith(("model", "lora"))]
    return next(file.iter_batches(1, columns=columns)).to_pylist()[0]


def _labels(shards: DatasetShards) -> list[int]:
    """The label of every row."""
    import pyarrow.parquet

    tables = [pyarrow.parquet.read_table(shards.file(shard), columns=["label"]) for shard in shards.shards]
    return [label for table in tables for label in table["label"].to_pylist()]


def _licence(card: str) -> dict[str, str]:
    """The licence in the metadata of the local card, which knew the model's own folder."""
    metadata = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---\n") else {}
    keys = ("license", "license_name", "license_link")
    return {key: metadata[key] for key in keys if isinstance(metadata, dict) and key in metadata}


if __name__ == "__main__":
    sys.exit(main())

"""The card of a dataset that is there, from its rows, its manifest and the card that it had."""

from typing import Any

import yaml

from ..models.sources import public_name
from ..prompts.class_prompts import ClassName, label_names
from .card import DatasetCardMaker, Generator
from .score_notes import score_notes
from .shards import DatasetShards
from .stored_rows import StoredRows


def stored_card_maker(shards: DatasetShards, card: str, repo_id: str | None = None) -> DatasetCardMaker:
    """What renders the card of a finished dataset that ``ubgen generate`` drew.

    Args:
        shards: the dataset, all of whose files are here.
        card: the text of the card that it, or the dataset that it was made from, has: the licence is taken from there,
            because whoever wrote it knew the model's own folder.
        repo_id: its name on the Hub, if it goes there.
    """
    classes = [ClassName(*entry[:3]) for entry in shards.manifest["class_names"]]
    first = _first_row(shards)
    generator = Generator(first["model"], first.get("lora"), first.get("model_revision"), first.get("lora_revision"))
    return DatasetCardMaker(
        shards, label_names(classes), generator, _labels(shards), repo_id, licence=licence_of(card)
    )


def card_of_copy(shards: DatasetShards, source: StoredRows, how: str) -> str:
    """The card of a dataset whose rows were taken over from another.

    Args:
        shards: the new dataset, whole.
        source: the one that it was made from.
        how: what happened to the rows, as a word.
    """
    card = source.folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    # a manifest that ubgen generate wrote says all that a full card needs
    if "class_names" in shards.manifest and "samples_per_class" in shards.manifest:
        return stored_card_maker(shards, text)(shards.shards, shards.num_bytes())
    from ubgen_hub_cards.card_text import markdown_text

    name = markdown_text(public_name(str(source.folder)) or source.folder.name)
    notes = score_notes(shards.manifest.get("scores", {}), _column_names(shards))
    lines = [f"- `{column}`: {note}" for column, note in notes.items()]
    num_rows = sum(shard.stop - shard.start for shard in shards.shards)
    return "\n".join(
        ["---\ntags:\n- synthetic\n- ubgen\n---\n", f"# Images, {how}\n", f"{num_rows} rows of {name}.\n", *lines, ""]
    )


def licence_of(card: str) -> dict[str, str]:
    """The licence in a card's metadata."""
    metadata = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---\n") else {}
    keys = ("license", "license_name", "license_link")
    return {key: metadata[key] for key in keys if isinstance(metadata, dict) and key in metadata}


def _column_names(shards: DatasetShards) -> list[str]:
    import pyarrow.parquet

    return pyarrow.parquet.read_schema(shards.file(shards.shards[0])).names


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

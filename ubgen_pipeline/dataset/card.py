"""The dataset card: what a dataset says of itself, for the shards that are there.

It is rendered from the manifest, the shards' schema and what lies beside them. The datasets that other commands of
ubgen's made from one get theirs here too, and the report of a measured bias is put into it.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ..files.folder_lock import STATE_FOLDER
from ..files.places import Place
from ..models.loras import stored_loras
from ..models.sources import GeneratorSource, model_source, public_name
from ..prompts.class_prompts import ClassName, label_names
from .columns import SAFETY_COLUMN, column_values, score_notes
from .reader import StoredRows, stored_column, stored_features
from .row_facts import ShardFacts
from .shards import DatasetShards, Shard, open_dataset
from .statistics import dataset_statistics

if TYPE_CHECKING:
    from datasets import Features

    from ubgen_hub_cards.dataset_card import Source

# those that the card shows elsewhere, or that are of the run and not of the images
_SHOWN_ELSEWHERE = (
    "class_names", "columns", "device", "lora", "lora_revision", "lora_strength", "model", "model_revision",
    "negative_prompt", "filters", "not_finite", "num_samples", "prompts", "reviewed", "revision", "samples_per_class",
    "scored", "scores", "seed", "template", "versions",
)  # fmt: skip
# files beside the shards that the card takes in
BIAS_REPORT = "bias_report.txt"
FILTER_REPORT = "filter_report.json"
THROUGHPUT_REPORT = f"{STATE_FOLDER}/throughput.txt"


class DatasetCardMaker:
    """Renders the card of one dataset for any set of its shards: equal shards give an equal card.

    Args:
        shards: the dataset; its manifest holds the settings.
        class_names: the label names.
        generator: what draws it.
        turns: row i has label ``turns[i % len(turns)]``.
        repo_id: its name on the Hub, if it is there.
        licence: of the generator, where it is known without asking: keys ``license``, ``license_name`` and so on.
        licence_note: with it, what the dataset's card says to know before the images train other models.
        reads_rows: whether the card says what takes reading the rows: statistics, and how many of them the safety
            checker flagged. Of a dataset whose shards do not stay here it must not.
    """

    def __init__(
        self,
        shards: DatasetShards,
        class_names: Sequence[str],
        generator: GeneratorSource,
        turns: Sequence[int],
        repo_id: str | None = None,
        *,
        licence: Mapping[str, str] | None = None,
        licence_note: str | None = None,
        reads_rows: bool = True,
    ):
        self.shards, self.class_names, self.generator, self.repo_id = shards, class_names, generator, repo_id
        self.turns, self.licence, self.reads_rows = turns, licence, reads_rows
        self.licence_note = licence_note
        self._facts = ShardFacts(shards)

    def __call__(self, present: Sequence[Shard], num_bytes: int) -> str:
        """The card for the shards ``present``, whose files have ``num_bytes`` in all; one of them must be here."""
        from ubgen_hub_cards.dataset_card import DatasetFacts, render_dataset_card

        manifest = self.shards.manifest
        facts = DatasetFacts(
            class_names=self.class_names,
            counts=class_counts(present, len(self.class_names), self.turns),
            samples_per_class=manifest["samples_per_class"],
            features=self._features,
            generator=self._sources[0],
            loras=self._sources[1],
            seed=manifest["seed"],
            settings={name: value for name, value in sorted(manifest.items()) if name not in _SHOWN_ELSEWHERE},
            texts=_texts(manifest),
            num_bytes=num_bytes,
            num_samples=manifest["num_samples"],
            repo_id=self.repo_id,
            versions=manifest["versions"],
            device=manifest["device"],
            bias_report=self.bias_report(),
            # on the Hub the card says the same whoever has drawn the shards
            throughput=self.shards.report(THROUGHPUT_REPORT) if self.repo_id is None else None,
            column_notes=score_notes(manifest.get("scores", {}), self._features),
            num_flagged=self._num_flagged(present),
            filter_report=json.loads(self.shards.report(FILTER_REPORT) or "null"),
            column_values=column_values(self._features),
        )
        if self.reads_rows and facts.is_whole and all(map(self.shards.is_here, present)):
            attributes = self._features.get("attributes", ())
            statistics = dataset_statistics(self._facts.of(present), facts.counts, attributes)
            facts = dataclasses.replace(facts, statistics=statistics)
        return render_dataset_card(facts)

    def bias_report(self) -> str | None:
        """The text beside the shards, if there is one."""
        return self.shards.report(BIAS_REPORT)

    def marks(self, present: Sequence[Shard]) -> Counter[str]:
        """How many rows of those shards, which are here, have each mark: see :attr:`.row_facts.RowFacts.marks`."""
        return sum((facts.marks for facts in self._facts.of(present)), Counter[str]())

    def _num_flagged(self, present: Sequence[Shard]) -> int | None:
        if not self.reads_rows or SAFETY_COLUMN not in self._features:
            return None
        return self.marks(present)[SAFETY_COLUMN]

    @cached_property
    def _features(self) -> "Features":
        """Columns and types, as any shard's file here states them."""
        file = self.shards.file(next(filter(self.shards.is_here, self.shards.shards)))
        return self.shards.reading(lambda: stored_features(file))

    @cached_property
    def _sources(self) -> "tuple[Source, list[Source]]":
        from ubgen_hub_cards.dataset_card import Source

        generator = self.generator
        loras = [
            Source(public_name(lora.source) or lora.source, lora.revision, strength=lora.strength)
            for lora in generator.loras
        ]
        if self.licence is None:
            return model_source(generator.model, generator.model_revision), loras
        name = public_name(generator.model) or generator.model
        return Source(name, generator.model_revision, self.licence, self.licence_note), loras


def stored_card_maker(shards: DatasetShards, card: str, repo_id: str | None = None) -> DatasetCardMaker:
    """What renders the card of a finished dataset that ``ubgen generate`` drew.

    Args:
        shards: the dataset, all of whose files are here.
        card: the text of the card that it, or the dataset that it was made from, has: the licence is taken from there,
            because whoever wrote it knew the model's own folder.
        repo_id: its name on the Hub, if it goes there.
    """
    classes = [ClassName(*entry[:3]) for entry in shards.manifest["class_names"]]
    files = [shards.file(shard) for shard in shards.shards]
    told = ("model", "lora", "model_revision", "lora_revision", "lora_strength")
    here = [name for name in told if name in stored_features(files[0])]
    first = {name: stored_column(files[:1], name)[0] for name in here}
    generator = GeneratorSource(first["model"], first.get("model_revision"), stored_loras(first))
    from ubgen_hub_cards.dataset_card import licence_note_of

    return DatasetCardMaker(
        shards,
        label_names(classes),
        generator,
        stored_column(files, "label"),
        repo_id,
        licence=licence_of(card),
        licence_note=licence_note_of(card),
    )


def card_of_copy(shards: DatasetShards, source: StoredRows, how: str) -> str:
    """The card of a dataset whose rows were taken over from another.

    Args:
        shards: the new dataset, whole.
        source: the one that it was made from.
        how: what happened to the rows, as a word.
    """
    text = card_in(source.folder)
    if says_how_it_was_drawn(shards.manifest):
        return stored_card_maker(shards, text)(shards.shards, shards.num_bytes())
    from ubgen_hub_cards.card_text import markdown_text

    name = markdown_text(public_name(str(source.folder)) or source.folder.name)
    notes = score_notes(shards.manifest.get("scores", {}), stored_features(shards.file(shards.shards[0])))
    lines = [f"- `{column}`: {note}" for column, note in notes.items()]
    num_rows = sum(shard.stop - shard.start for shard in shards.shards)
    return copy_card(shards, text, f"Images, {how}", [f"{num_rows} rows of {name}.", "", *lines])


def copy_card(shards: DatasetShards, source_card: str, title: str, lines: Sequence[str]) -> str:
    """The card of a whole dataset made from another one's rows, whose manifest does not say how they were drawn.

    Args:
        shards: the new dataset.
        source_card: the other one's card, of which the licence is kept; empty where it has none.
        title, lines: what the card says, as Markdown.
    """
    from ubgen_hub_cards.dataset_card import CopyFacts, licence_note_of, render_copy_card

    features = stored_features(shards.file(shards.shards[0]))
    return render_copy_card(
        CopyFacts(
            title=title,
            lines=lines,
            features=features,
            num_rows=sum(shard.stop - shard.start for shard in shards.shards),
            # the columns of rows that ubgen drew
            is_synthetic={"model", "prompt", "seed"} <= set(features),
            licence=licence_of(source_card),
            licence_note=licence_note_of(source_card),
            column_values=column_values(features),
        )
    )


def card_in(folder: Place) -> str:
    """The text of the card in a dataset's folder; empty where there is none."""
    card = folder / "README.md"
    return card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""


def says_how_it_was_drawn(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest says all that a full card needs, as those of ``ubgen generate`` do."""
    return "class_names" in manifest and "samples_per_class" in manifest


def add_bias_report(folder: str | Place, text: str) -> None:
    """Write ``bias_report.txt`` and put the text into the card, in place of an earlier one; all else in it stays.

    Raises:
        ValueError: the folder holds no finished dataset of ubgen's.
    """
    from ubgen_hub_cards.dataset_card import with_bias_report

    shards = open_dataset(folder)
    card = (shards.folder / "README.md").read_text(encoding="utf-8")
    shards.write_report(BIAS_REPORT, text)
    shards.write_report("README.md", with_bias_report(card, text))


def licence_of(card: str) -> dict[str, str]:
    """The licence in a card's metadata; none where these cannot be read, as in a text of somebody else's."""
    try:
        metadata = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---\n") else {}
    except yaml.YAMLError:
        metadata = {}
    keys = ("license", "license_name", "license_link")
    return {key: metadata[key] for key in keys if isinstance(metadata, dict) and key in metadata}


def class_counts(shards: Sequence[Shard], num_classes: int, turns: Sequence[int]) -> list[int]:
    """Rows of each class in those shards, where row i has label ``turns[i % len(turns)]``."""
    labels, counts = np.asarray(turns), np.zeros(num_classes, dtype=np.int64)
    for shard in shards:
        counts += np.bincount(labels[np.arange(shard.start, shard.stop) % len(labels)], minlength=num_classes)
    return counts.tolist()


def _texts(manifest: Mapping[str, Any]) -> dict[str, str]:
    templates = manifest["prompts"].get("templates", ())
    texts = {"template": " | ".join(templates), "negative_prompt": manifest.get("negative_prompt")}
    return {name: text for name, text in texts.items() if text}

"""What a dataset's card says, from the settings it is made with and the shards that are there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .dataset_shards import DatasetShards, Shard
from .model_sources import model_source, public_name

if TYPE_CHECKING:
    from datasets import Features

    from ubgen_hub_cards.dataset_card import Source

# those that the card shows elsewhere, or that are of the run and not of the images
_SHOWN_ELSEWHERE = (
    "class_names", "columns", "device", "lora", "lora_revision", "model", "model_revision", "negative_prompt",
    "revision", "samples_per_class", "seed", "template", "versions",
)  # fmt: skip
# a text beside the shards that the card takes in
BIAS_REPORT = "bias_report.txt"


@dataclass(frozen=True)
class Generator:
    """The model and LoRA as the user named them, and their commits on the Hub where they come from there."""

    model: str
    lora: str | None
    model_revision: str | None
    lora_revision: str | None


class DatasetCardMaker:
    """Renders the card of one dataset for any set of its shards: equal shards give an equal card.

    Args:
        shards: the dataset; its manifest holds the settings.
        class_names: the label names.
        generator: what draws it.
        repo_id: its name on the Hub, if it is there.
        licence: of the generator, where it is known without asking: keys ``license``, ``license_name`` and so on.
    """

    def __init__(
        self,
        shards: DatasetShards,
        class_names: Sequence[str],
        generator: Generator,
        repo_id: str | None = None,
        *,
        licence: Mapping[str, str] | None = None,
    ):
        self.shards, self.class_names, self.generator, self.repo_id = shards, class_names, generator, repo_id
        self.licence = licence

    def __call__(self, present: Sequence[Shard], num_bytes: int) -> str:
        """The card for the shards ``present``, whose files have ``num_bytes`` in all; one of them must be here."""
        from ubgen_hub_cards.dataset_card import DatasetFacts, render_dataset_card

        manifest = self.shards.manifest
        facts = DatasetFacts(
            class_names=self.class_names,
            counts=class_counts(present, len(self.class_names)),
            samples_per_class=manifest["samples_per_class"],
            features=self._features,
            generator=self._sources[0],
            lora=self._sources[1],
            seed=manifest["seed"],
            settings={name: value for name, value in sorted(manifest.items()) if name not in _SHOWN_ELSEWHERE},
            texts=_texts(manifest),
            num_bytes=num_bytes,
            repo_id=self.repo_id,
            versions=manifest["versions"],
            device=manifest["device"],
            bias_report=self._bias_report(),
        )
        return render_dataset_card(facts)

    def _bias_report(self) -> str | None:
        file = self.shards.folder / BIAS_REPORT
        return file.read_text(encoding="utf-8") if file.is_file() else None

    @cached_property
    def _features(self) -> "Features":
        """Columns and types, as any shard's file here states them."""
        import pyarrow.parquet
        from datasets import Features

        files = map(self.shards.file, self.shards.shards)
        here = next(file for file in files if file.is_file())
        return Features.from_arrow_schema(pyarrow.parquet.read_schema(here))

    @cached_property
    def _sources(self) -> "tuple[Source, Source | None]":
        from ubgen_hub_cards.dataset_card import Source

        generator = self.generator
        lora = None
        if generator.lora is not None:
            lora = Source(public_name(generator.lora) or generator.lora, generator.lora_revision)
        if self.licence is None:
            return model_source(generator.model, generator.model_revision), lora
        name = public_name(generator.model) or generator.model
        return Source(name, generator.model_revision, self.licence), lora


def class_counts(shards: Sequence[Shard], num_classes: int) -> list[int]:
    """Rows of each class in those shards: row i is of class i mod ``num_classes``."""

    def below(stop: int, label: int) -> int:
        return (stop - label + num_classes - 1) // num_classes

    return [sum(below(s.stop, label) - below(s.start, label) for s in shards) for label in range(num_classes)]


def _texts(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {name: manifest[name] for name in ("template", "negative_prompt") if manifest.get(name)}

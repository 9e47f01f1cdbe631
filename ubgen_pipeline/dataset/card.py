"""What a dataset says of itself: the manifest that a resume must match, and the card for the shards that are there."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..models.sources import fingerprint, model_source, public_name
from ..scoring.settings import ScoreFlags
from .score_columns import SAFETY_COLUMN
from .score_notes import score_notes
from .shards import DatasetShards, Shard

if TYPE_CHECKING:
    from datasets import Features

    from ubgen_hub_cards.dataset_card import Source

    from ..generation.settings import GenerateSettings, Plan
    from ..inference.settings import Inference

# those that the card shows elsewhere, or that are of the run and not of the images
_SHOWN_ELSEWHERE = (
    "class_names", "columns", "device", "lora", "lora_revision", "model", "model_revision", "negative_prompt",
    "filters", "num_samples", "prompts", "revision", "samples_per_class", "scored", "scores", "seed", "template",
    "versions",
)  # fmt: skip
# files beside the shards that the card takes in
BIAS_REPORT = "bias_report.txt"
FILTER_REPORT = "filter_report.json"


@dataclass(frozen=True)
class Generator:
    """The model and LoRA as the user named them, and their commits on the Hub where they come from there."""

    model: str
    lora: str | None
    model_revision: str | None
    lora_revision: str | None
    few_step_lora_revision: str | None = None


def manifest(
    settings: "GenerateSettings", plan: "Plan", generator: Generator, inference: "Inference", device: str
) -> dict[str, Any]:
    """Everything that an image's bytes depend on; where models lie does not count, what they hold does."""
    from ..generation.settings import HUB_SETTINGS, RUN_SETTINGS
    from ..models.loading import resolve_model
    from ..models.text_embeddings import split_embedding

    kept = dataclasses.asdict(settings)
    # the task and its source stand in the plan's facts, the source by what it holds
    left_out = ("class_names", "classes", "model", "lora", "embeddings", "source")
    for name in (*left_out, *HUB_SETTINGS, *RUN_SETTINGS):
        del kept[name]
    # the settings that masks and scores are made with stand for those that were given
    scores = {item.name for item in dataclasses.fields(ScoreFlags)}
    kept = {name: value for name, value in kept.items() if not name.startswith("mask_") and name not in scores}
    if settings.wanted_scores():
        kept["scores"] = settings.score_facts(settings.model)
    del kept["preset"], kept["few_step_lora"]
    if settings.preset is not None:
        kept |= {"preset": settings.preset, **settings.shortcuts()}
        kept["few_step_lora"] = fingerprint(settings.few_step_lora)
        kept["few_step_lora_revision"] = generator.few_step_lora_revision
    libraries = ["torch", "diffusers", "transformers", "pillow", "pyarrow"]
    if settings.wanted_annotations():
        kept["mask_settings"] = dataclasses.asdict(settings.mask_settings(resolve_model(settings.model)))
        libraries += ["scipy", "contourpy"]
    return {
        **kept,
        "class_names": [[item.name, item.class_id, item.definition, *item.synonyms] for item in plan.classes],
        "prompts": plan.facts(),
        "samples_per_class": plan.samples_per_class,
        "num_samples": len(plan),
        "model": fingerprint(resolve_model(settings.model)),
        "lora": fingerprint(settings.lora),
        "embeddings": [[fingerprint(file), token] for file, token in map(split_embedding, settings.embeddings or ())],
        "model_revision": generator.model_revision,
        "lora_revision": generator.lora_revision,
        **inference.facts(),
        "device": device,
        "versions": {name: version(name) for name in libraries},
    }


class DatasetCardMaker:
    """Renders the card of one dataset for any set of its shards: equal shards give an equal card.

    Args:
        shards: the dataset; its manifest holds the settings.
        class_names: the label names.
        generator: what draws it.
        turns: row i has label ``turns[i % len(turns)]``.
        repo_id: its name on the Hub, if it is there.
        licence: of the generator, where it is known without asking: keys ``license``, ``license_name`` and so on.
        counts_flags: whether the card says how many rows the safety checker flagged. It reads them for that, so that
            of a dataset whose shards do not stay here it must not.
    """

    def __init__(
        self,
        shards: DatasetShards,
        class_names: Sequence[str],
        generator: Generator,
        turns: Sequence[int],
        repo_id: str | None = None,
        *,
        licence: Mapping[str, str] | None = None,
        counts_flags: bool = True,
    ):
        self.shards, self.class_names, self.generator, self.repo_id = shards, class_names, generator, repo_id
        self.turns, self.licence, self.counts_flags = turns, licence, counts_flags

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
            lora=self._sources[1],
            seed=manifest["seed"],
            settings={name: value for name, value in sorted(manifest.items()) if name not in _SHOWN_ELSEWHERE},
            texts=_texts(manifest),
            num_bytes=num_bytes,
            num_samples=manifest["num_samples"],
            repo_id=self.repo_id,
            versions=manifest["versions"],
            device=manifest["device"],
            bias_report=self.bias_report(),
            column_notes=score_notes(manifest.get("scores", {}), self._features),
            num_flagged=self._num_flagged(present),
            filter_report=json.loads(self._report(FILTER_REPORT) or "null"),
        )
        return render_dataset_card(facts)

    def bias_report(self) -> str | None:
        """The text beside the shards, if there is one."""
        return self._report(BIAS_REPORT)

    def _num_flagged(self, present: Sequence[Shard]) -> int | None:
        if not self.counts_flags or SAFETY_COLUMN not in self._features:
            return None
        return sum(num_flagged(self.shards.file(shard)) for shard in present)

    def _report(self, name: str) -> str | None:
        file = self.shards.folder / name
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


def class_counts(shards: Sequence[Shard], num_classes: int, turns: Sequence[int]) -> list[int]:
    """Rows of each class in those shards, where row i has label ``turns[i % len(turns)]``."""
    labels, counts = np.asarray(turns), np.zeros(num_classes, dtype=np.int64)
    for shard in shards:
        counts += np.bincount(labels[np.arange(shard.start, shard.stop) % len(labels)], minlength=num_classes)
    return counts.tolist()


def num_flagged(file: Path) -> int:
    """Rows of a parquet file that a safety checker flagged; 0 where it has no such column."""
    import pyarrow.parquet

    if SAFETY_COLUMN not in pyarrow.parquet.read_schema(file).names:
        return 0
    return pyarrow.parquet.read_table(file, columns=[SAFETY_COLUMN])[SAFETY_COLUMN].to_pylist().count(True)


def _texts(manifest: Mapping[str, Any]) -> dict[str, str]:
    templates = manifest["prompts"].get("templates", ())
    texts = {"template": " | ".join(templates), "negative_prompt": manifest.get("negative_prompt")}
    return {name: text for name, text in texts.items() if text}

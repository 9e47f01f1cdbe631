"""The manifest: everything that an image's bytes depend on, which a resume must match."""

import dataclasses
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ..models.sources import GeneratorSource, fingerprint
from ..scoring.settings import ScoreSettings

if TYPE_CHECKING:
    from ..inference.settings import Inference
    from .settings import GenerateSettings, Plan


def manifest(
    settings: "GenerateSettings", plan: "Plan", generator: GeneratorSource, inference: "Inference", device: str
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
    scores = {item.name for item in dataclasses.fields(ScoreSettings)}
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

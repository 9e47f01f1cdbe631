"""The manifest: all that the bytes of a dataset's images depend on, and nothing else. A resume must match it."""

import dataclasses
from importlib.metadata import version
from typing import Any

from ..inference.diversity_options import DiversitySettings, diversity_columns
from ..inference.presets import PresetSettings
from ..inference.settings import Inference
from ..models.fingerprints import fingerprint
from ..models.loras import few_step_columns, lora_columns
from ..models.quantization import QUANTIZATION_LIBRARIES
from ..models.sources import GeneratorSource
from ..samples.sample import Samples
from ..scoring.settings import ScoreSettings
from .annotation_settings import AnnotationSettings
from .settings import HUB_SETTINGS, RUN_SETTINGS, GenerateSettings

# models, classes and sources stand in the manifest by what they hold, wherever they lie
_STAND_BY_CONTENT = ("class_names", "classes", "model", "lora", "embeddings", "source")


def manifest(
    settings: GenerateSettings, samples: Samples, source: GeneratorSource, inference: Inference, device: str
) -> dict[str, Any]:
    """The manifest's settings, as JSON values.

    Args:
        settings: of the dataset.
        samples: those that the settings stand for.
        source: model and LoRAs, and their commits on the Hub.
        inference: how the images are drawn on this machine.
        device: ``cpu`` or ``cuda``: the two round differently.
    """
    # imported here, since these load torch, and a dry run makes no manifest
    from ..models.loading import resolve_model
    from ..models.text_embeddings import split_embedding

    libraries = ["torch", "diffusers", "transformers", "pillow", "pyarrow"]
    kept = _plain_settings(settings)
    if settings.wanted_scores():
        kept["scores"] = settings.score_facts(settings.model)
    if settings.preset is not None:
        kept |= {"preset": settings.preset, **settings.shortcuts()}
        few_step = source.few_step_lora
        kept |= few_step_columns(few_step, fingerprint)
        kept["few_step_lora_revision"] = None if few_step is None else few_step.revision
    # datasets made before have neither
    kept |= diversity_columns(settings.diversity_arguments())
    if settings.wanted_annotations():
        kept["mask_settings"] = settings.mask_settings(resolve_model(settings.model)).facts()
        # contourpy traced outlines in version 0.1.0: it is noted still, so that datasets begun then can be resumed
        libraries += ["scipy", "contourpy"]
    if inference.quantization != "none":
        libraries.append(QUANTIZATION_LIBRARIES[inference.quantization])
    return {
        **kept,
        "class_names": [[item.name, item.class_id, item.definition, *item.synonyms] for item in samples.classes],
        "prompts": samples.facts(),
        "samples_per_class": samples.samples_per_class,
        "num_samples": len(samples),
        "model": fingerprint(resolve_model(settings.model), settings.variant),
        **lora_columns(source.loras, fingerprint),
        "embeddings": [[fingerprint(file), token] for file, token in map(split_embedding, settings.embeddings or ())],
        "model_revision": source.model_revision,
        **inference.facts(),
        "device": device,
        "versions": {name: version(name) for name in libraries},
    }


def _plain_settings(settings: GenerateSettings) -> dict[str, Any]:
    """The settings that count as they were given; those that :func:`manifest` gives in another form are left out."""
    groups = (PresetSettings, ScoreSettings, AnnotationSettings, DiversitySettings)
    others = {item.name for group in groups for item in dataclasses.fields(group)} - {"annotations"}
    # what waits where, and in how many bits, stands among the facts of the inference, where anything does
    others |= {*_STAND_BY_CONTENT, *HUB_SETTINGS, *RUN_SETTINGS, "offload", "quantization"}
    # manifests of earlier versions have none of these
    others |= {name for name in ("true_cfg_scale", "variant") if getattr(settings, name) is None}
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in others}

"""The card of a trained model, made from what was run: Markdown with metadata, beside the weights.

Class names, prompts and settings are user text; see :mod:`ubgen_hub_cards.card_text`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .card_templates import card_template
from .card_text import is_hub_id, public_source, python_literal, without_tokens

CARD_FILE = "README.md"
TEMPLATE = "model_card.md.jinja"
MOST_NAMES = 40
# functions of ubgen_pipeline.mini that give the embedded models' folders
_EMBEDDED_MODELS = {"mini": "mini_model_path", "mini-flow": "mini_flow_path"}
NUM_PARTS = 5


@dataclass(frozen=True)
class Evaluation:
    """A figure on the fixed samples at the first and at the last evaluation."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Curve:
    """A figure's mean over each of up to ``NUM_PARTS`` equal parts of the updates; see :func:`curve_of`."""

    name: str
    parts: tuple[float, ...]


@dataclass(frozen=True)
class HowToLoad:
    """How plain diffusers draws with the trained weights.

    Args:
        pipeline_class: diffusers' own, of the base model's family.
        denoiser_class: of the network that was trained.
        denoiser_part: its name in the pipeline.
        has_lora_loader: whether that pipeline loads a LoRA; where not, the LoRA is a file of peft's own layout.
        guidance: arguments of the pipeline's call for the guidance that was trained under.
        absent_parts: parts that the base model was saved without, though diffusers asks for them.
    """

    pipeline_class: str = "StableDiffusionPipeline"
    denoiser_class: str = "UNet2DConditionModel"
    denoiser_part: str = "unet"
    has_lora_loader: bool = True
    guidance: Mapping[str, object] | None = None
    absent_parts: Sequence[str] = ()


@dataclass(frozen=True)
class ModelFacts:
    """What was run.

    Args:
        base_model: ``mini``, ``mini-flow``, a folder or a Hub id; a folder is not named in the card.
        train_method: ``lora`` or ``full``.
        method: one sentence of Markdown, of the trainer's own: how the weights were trained.
        class_names: all, in label order.
        prompt: an example, for the code.
        num_inference_steps, guidance_scale: as trained with, for the code.
        num_updates: of the weights.
        settings: names and values; values that are paths are left out of the card.
        texts: settings that are free text and may hold anything.
        evaluations, curves: tables of figures.
        alarms: updates at which the alarm was raised.
        grids: pictures of the fixed samples, as paths relative to the card; one class a row.
        grid_classes: the classes of the rows.
        versions: of the libraries.
        device: what it ran on, in words.
        tags: beside those of every card.
        how_to_load: in plain diffusers.
        licence_note: what to know of the base model's licence before its images train other models, as plain text.
        has_captions: whether ``class_names`` are captions, each trained on as a class.
    """

    base_model: str
    train_method: str
    method: str
    class_names: Sequence[str]
    prompt: str
    num_inference_steps: int
    guidance_scale: float
    num_updates: int
    settings: Mapping[str, object]
    texts: Mapping[str, str] = field(default_factory=dict)
    evaluations: Sequence[Evaluation] = ()
    curves: Sequence[Curve] = ()
    alarms: Sequence[int] = ()
    grids: Sequence[str] = ()
    grid_classes: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = "CPU"
    tags: Sequence[str] = ()
    how_to_load: HowToLoad = HowToLoad()
    licence_note: str | None = None
    has_captions: bool = False


def curve_of(name: str, values: Sequence[float]) -> Curve:
    """The means over up to ``NUM_PARTS`` parts of ``values``, one or more, which follow each other in time."""
    count = min(NUM_PARTS, len(values))
    bounds = [part * len(values) // count for part in range(count + 1)]
    parts = [values[start:stop] for start, stop in pairwise(bounds)]
    return Curve(name, tuple(sum(part) / len(part) for part in parts))


def model_metadata(facts: ModelFacts) -> ModelCardData:
    """The card's metadata; only a model on the Hub is named as the base."""
    is_on_hub = is_hub_id(facts.base_model)
    more: dict[str, Any] = {"license": "apache-2.0"}
    if facts.base_model not in _EMBEDDED_MODELS:
        more = {"license": "other", "license_name": "that-of-the-base-model"}
    if is_on_hub:
        more["license_link"] = f"https://huggingface.co/{facts.base_model}"
        more["base_model_relation"] = "adapter" if facts.train_method == "lora" else "finetune"
    return ModelCardData(
        base_model=facts.base_model if is_on_hub else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=list(dict.fromkeys(["ubgen", "text-to-image", "synthetic-data", *facts.tags])),
        **more,
    )


def render_model_card(facts: ModelFacts) -> str:
    """The card's Markdown, metadata first.

    Raises:
        ValueError: a fact cannot be rendered, or a grid's path is not inside the card's folder.
    """
    for grid in facts.grids:
        if Path(grid).is_absolute() or ".." in Path(grid).parts or not all(c.isalnum() or c in "/_.-" for c in grid):
            raise ValueError(f"grids holds {grid!r}; give plain paths relative to the card's folder.")
    card = card_template(TEMPLATE, literal=python_literal, figure=_figure).render(
        facts=facts,
        metadata=model_metadata(facts).to_yaml(),
        base_model=public_source(facts.base_model),
        embedded_path=_EMBEDDED_MODELS.get(facts.base_model),
        is_on_hub=is_hub_id(facts.base_model),
        settings={name: _setting(value) for name, value in facts.settings.items() if value is not None},
        names=facts.class_names[:MOST_NAMES],
        how=facts.how_to_load,
        guidance={"guidance_scale": facts.guidance_scale}
        if facts.how_to_load.guidance is None
        else facts.how_to_load.guidance,
    )
    card = without_tokens(card)
    # the Hub's own reader must find the metadata again
    assert ModelCard(card, ignore_metadata_errors=False).data.to_dict() == model_metadata(facts).to_dict()
    return card


def _setting(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_setting(item)}" for key, item in value.items())
    return public_source(value) if isinstance(value, str) else str(value)


def _figure(value: float) -> str:
    return f"{value:.4g}"

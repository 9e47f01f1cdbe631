"""Checks of what a visitor asks for. The page offers nothing beyond, but a request need not come from the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from space_settings import SpaceSettings

from ubgen_pipeline.prompts.class_prompts import ClassName
from ubgen_pipeline.sample_seeds import SEED_LIMIT

# the page's controls in order, by the names that :func:`check_request` takes their values under
CONTROLS = (
    "class_choice",
    "variant_choice",
    "num_samples",
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "annotate",
)
MAX_GUIDANCE = 20.0
# a number field of a browser holds integers up to here exactly
MAX_SEED = min(SEED_LIMIT, 2**53) - 1


@dataclass(frozen=True)
class ModelDefaults:
    """What the page offers for the model that was loaded.

    Attributes:
        num_inference_steps: steps that the page begins with.
        guidance_scale: guidance that it begins with; None where guidance has no effect on the model.
        makes_annotations: whether masks and boxes are made of the model's attention.
    """

    num_inference_steps: int
    guidance_scale: float | None
    makes_annotations: bool


@dataclass(frozen=True)
class DrawRequest:
    """A request within the limits: ``num_samples`` images of a class from each of ``variants``, at the same seeds.

    ``guidance_scale`` is None for a model on which it has no effect.
    """

    class_name: str
    variants: tuple[str, ...]
    num_samples: int
    seed: int
    num_inference_steps: int
    guidance_scale: float | None
    annotate: bool = False

    @property
    def num_images(self) -> int:
        return self.num_samples * len(self.variants)

    @property
    def described(self) -> str:
        """What the images are of, in one line."""
        guidance = "" if self.guidance_scale is None else f", guidance {self.guidance_scale:g}"
        return f"{self.class_name}, seed {self.seed}, {self.num_inference_steps} steps{guidance}"


def check_request(
    settings: SpaceSettings,
    classes: Mapping[str, ClassName],
    defaults: ModelDefaults,
    *,
    class_choice: Any,
    variant_choice: Any,
    num_samples: Any,
    seed: Any,
    num_inference_steps: Any,
    guidance_scale: Any,
    annotate: Any = False,
) -> DrawRequest:
    """The request that these values of the page's controls stand for.

    Raises:
        ValueError: naming the control and its limits; nothing of the value itself, which may be anything, is repeated.
    """
    if not isinstance(class_choice, str) or class_choice not in classes:
        raise ValueError("Class: choose one from the list.")
    offered = tuple(settings.variants)
    if not isinstance(variant_choice, (list, tuple)) or not all(name in offered for name in variant_choice):
        raise ValueError(f"Model: choose among {', '.join(offered)}.")
    # in the page's order, each once
    variants = tuple(name for name in offered if name in variant_choice)
    if not variants:
        raise ValueError("Model: choose at least one.")
    if not isinstance(annotate, bool):
        raise ValueError("Mask and boxes: give true or false.")
    return DrawRequest(
        class_name=classes[class_choice].name,
        variants=variants,
        num_samples=whole_number("Samples", num_samples, 1, settings.max_samples),
        seed=whole_number("Seed", seed, 0, MAX_SEED),
        num_inference_steps=whole_number("Steps", num_inference_steps, 1, settings.max_steps),
        # the page sends values of controls that it hides, too
        guidance_scale=(
            None if defaults.guidance_scale is None else _number("Guidance", guidance_scale, 0, MAX_GUIDANCE)
        ),
        annotate=annotate and defaults.makes_annotations,
    )


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name}: give a number from {low} to {high:g}.")
    return float(value)


def whole_number(name: str, value: Any, low: int, high: int) -> int:
    """``value`` of the control ``name``, if it is a whole number in [low, high].

    Raises:
        ValueError: naming the control and its limits.
    """
    # a browser sends 8 as 8 or 8.0; `in range` would walk through the range for a float. NaN is in no range.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or value != int(value):
        raise ValueError(f"{name}: give a whole number from {low} to {high}.")
    return int(value)

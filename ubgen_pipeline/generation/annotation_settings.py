"""What to annotate images with, and how masks are made. No torch."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..commands.settings_parser import field_help
from ..mask_settings import MaskSettings, check_annotations

_PREFIX = "mask_"


@dataclass(frozen=True)
class AnnotationSettings:
    """What to annotate images with, and how masks are made; a setting that is not given is the model's default."""

    annotations: list[str] | None = field_help(
        "columns from attention: mask, confidence, heatmap, instance, box, polygon", None
    )
    mask_source: str | None = field_help(
        "attention: to the class's words; concepts: of the class's words to the image, for some transformers", None
    )
    mask_background: list[str] | None = field_help(
        "words that stand for what belongs to no class, where the source is concepts", None
    )
    mask_class_prompt: bool | None = field_help("cross-attention keys from the class words alone", None)
    mask_append_class_names: bool | None = field_help("append the class words to prompts without them", None)
    mask_cross_levels: list[int] | None = field_help(
        "halvings of the latents where cross-attention is recorded, or blocks of joint attention", None
    )
    mask_self_level: int | None = field_help(
        "halvings of the latents where self-attention is recorded, or the block", None
    )
    mask_self_power: int | None = field_help("exponent of the self-attention map; 0 leaves it out", None)
    mask_invert: bool | None = field_help("objects are where attention to the class is low", None)
    mask_threshold: float | None = field_help("least score of a class's pixel, above 0 and at most 1", None)
    mask_ignore_threshold: float | None = field_help(
        "pixels between this score and the threshold get label 255; the threshold itself for none", None
    )
    mask_first_step: float | None = field_help("share of the denoising where recording starts", None)
    mask_last_step: float | None = field_help("share of the denoising where recording ends", None)
    mask_min_area: float | None = field_help("least share of the image that an object covers", None)

    def wanted_annotations(self) -> tuple[str, ...]:
        """The annotations asked for, in their fixed order.

        Raises:
            ValueError: an unknown one, or a mask setting without any.
        """
        wanted = check_annotations(self.annotations or ())
        if not wanted and (given := self._given()):
            raise ValueError(f"mask_{next(iter(given))} is given without annotations; add --annotations mask.")
        return wanted

    def mask_settings(self, model_folder: str | Path) -> MaskSettings:
        """The settings given on top of the defaults of the model's family.

        Args:
            model_folder: a folder in diffusers layout, or a Hub id.

        Raises:
            ValueError: a setting out of range, or a family of whose attention no masks are made.
        """
        # these load torch
        from ..models.families import denoiser_config
        from ..models.loading import load_family

        family = load_family(model_folder)
        return dataclasses.replace(family.mask_settings_of(denoiser_config(str(model_folder))), **self._given())

    def _given(self) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(MaskSettings)]
        values = {name: getattr(self, _PREFIX + name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

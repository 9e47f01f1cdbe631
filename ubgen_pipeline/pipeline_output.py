"""What the pipeline returns."""

from dataclasses import dataclass
from typing import Any

from diffusers.utils.outputs import BaseOutput


@dataclass
class UbGenOutput(BaseOutput):
    """Images with their labels, one entry per sample in every field. ``BaseOutput`` keeps it from being frozen.

    Attributes:
        images: list of B PIL images; ``(B, H, W, 3)`` float32 array in [0, 1]; ``(B, 3, H, W)`` tensor in [0, 1];
            or latents ``(B, C, h, w)``: see ``output_type``.
        labels: position of the sample's class in ``class_names``.
        prompts: the text that each image was drawn from.
        seeds: each sample's seed, in [0, 2**63); with it the sample can be drawn again alone.
        masks: list of B masks ``(H, W)`` uint8: 0 background, label + 1, 255 ignore; None unless asked for,
            and where a callback stopped a batch.
        boxes: list of B arrays ``(N, 4)`` int64 of the objects' boxes (x0, y0, x1, y1), end exclusive; None unless
            asked for, and where a callback stopped a batch.
        annotations: list of B ``SampleAnnotation`` (masks, confidence, heat maps, objects); None where no annotation
            was asked for.
        nsfw_content_detected: whether the safety checker blackened the image; None where the model has no checker.
    """

    images: Any
    labels: list[int]
    prompts: list[str]
    seeds: list[int]
    masks: Any | None = None
    boxes: Any | None = None
    annotations: list[Any] | None = None
    nsfw_content_detected: list[bool] | None = None

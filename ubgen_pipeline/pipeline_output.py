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
        masks: place of the segmentation masks; None, since this pipeline draws none.
        boxes: place of the bounding boxes; None, since this pipeline draws none.
        nsfw_content_detected: whether the safety checker blackened the image; None where the model has no checker.
    """

    images: Any
    labels: list[int]
    prompts: list[str]
    seeds: list[int]
    masks: Any | None = None
    boxes: Any | None = None
    nsfw_content_detected: list[bool] | None = None

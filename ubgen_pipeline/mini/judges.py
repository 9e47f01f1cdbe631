"""The independent judge of the mini world: reads class, background and texture off an image.

It is trained on unbiased scenes apart from the mini CLIP and never takes part in a reward.
"""

from pathlib import Path

import numpy as np
import torch

from .networks import ConvTower
from .scenes import BACKGROUND_NAMES, CLASS_NAMES, TEXTURE_NAMES
from .weights import load_float32

FACTOR_SIZES = {"class": len(CLASS_NAMES), "background": len(BACKGROUND_NAMES), "texture": len(TEXTURE_NAMES)}


def load_factor_classifier(folder: str | Path | None = None) -> ConvTower:
    """The classifier in eval mode; its logits ``(B, 30)`` are class, background and texture side by side."""
    folder = Path(folder or Path(__file__).parent / "classifier")
    return load_float32(ConvTower(sum(FACTOR_SIZES.values())), folder / "factors.safetensors")


@torch.no_grad()
def predict_factors(
    images: np.ndarray, model: ConvTower | None = None, batch_size: int = 256
) -> dict[str, np.ndarray]:
    """Most probable class, background and texture of every image.

    Args:
        images: ``(N, 64, 64, 3)`` uint8.
        model: default: the shipped classifier.

    Returns:
        ``{"class": (N,), "background": (N,), "texture": (N,)}``, indices into ``CLASS_NAMES`` and so on.

    Raises:
        ValueError: if the images have another shape or type.
    """
    if images.ndim != 4 or images.shape[1:] != (64, 64, 3) or images.dtype != np.uint8:
        raise ValueError(f"images must be (N, 64, 64, 3) uint8, got {images.shape} {images.dtype}; resize them first")
    model = model or load_factor_classifier()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    logits = torch.cat([model(part.float() / 255) for part in pixels.split(batch_size)])
    parts = logits.split(list(FACTOR_SIZES.values()), dim=1)
    return {name: part.argmax(dim=1).numpy() for name, part in zip(FACTOR_SIZES, parts)}


QUALITY_LEVELS = ("bad", "poor", "fair", "good", "excellent")


def load_mini_quality(folder: str | Path | None = None) -> ConvTower:
    """Images ``(B, 3, 64, 64)`` in [0, 1] to logits ``(B, 5)`` over ``QUALITY_LEVELS``, in eval mode."""
    folder = Path(folder or Path(__file__).parent / "classifier")
    return load_float32(ConvTower(len(QUALITY_LEVELS)), folder / "quality.safetensors")

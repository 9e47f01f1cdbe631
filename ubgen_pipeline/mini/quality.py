"""The mini world's image-quality scorer: five levels, as Q-Align's (paper Eq. 10, 11), learnt from damaged scenes."""

from pathlib import Path

from .networks import ConvTower
from .weights import load_float32

QUALITY_LEVELS = ("bad", "poor", "fair", "good", "excellent")


def load_mini_quality(folder: str | Path | None = None) -> ConvTower:
    """Images ``(B, 3, 64, 64)`` in [0, 1] to logits ``(B, 5)`` over ``QUALITY_LEVELS``, in eval mode."""
    folder = Path(folder or Path(__file__).parent / "classifier")
    return load_float32(ConvTower(len(QUALITY_LEVELS)), folder / "quality.safetensors")

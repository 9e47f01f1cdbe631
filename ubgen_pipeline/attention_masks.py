"""From recorded attention to heat maps, masks with an ignore region, and per-pixel confidence.

Follows Dataset Diffusion (arXiv 2309.14303, section 3.3). Where it leaves a choice open: maps of several levels are
brought to the self-attention's size and averaged, and a map without any contrast becomes 0 everywhere.

Shapes: B samples, K classes of a sample, S = h x w positions, H x W pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .attention_maps import RecordedAttention
from .mask_settings import IGNORE_LABEL, MaskSettings


@dataclass(frozen=True)
class AttentionMask:
    """The masks of one sample.

    Attributes:
        heat_maps: ``(K, H, W)`` float32 in [0, 1], one per class of the sample, in their order.
        mask: ``(H, W)`` uint8; 0 background, k + 1 the sample's class k, 255 ignore.
        confidence: ``(H, W)`` float32 in [0, 1]; how far the pixel's best score lies from the threshold, as a share of
            the way to the end of the scale (0 at the threshold, 1 at a score of 0 or 1).
    """

    heat_maps: np.ndarray
    mask: np.ndarray
    confidence: np.ndarray


def heat_maps(recorded: RecordedAttention, settings: MaskSettings, size: tuple[int, int]) -> torch.Tensor:
    """``(B, K, H, W)`` float32 in [0, 1]: each class's map, refined, min-max normalised and brought to pixels.

    Args:
        recorded: cross-attention at one or more levels and, unless ``self_power`` is 0, self-attention.
        settings: ``self_power`` and ``invert`` are read.
        size: (H, W).
    """
    first = next(iter(recorded.cross_maps.values()))
    small = recorded.self_size or (first.shape[-2], first.shape[-1])
    maps = torch.stack([_resized(maps, small) for maps in recorded.cross_maps.values()]).mean(dim=0)
    refined = maps.flatten(2).mT  # (B, S, K)
    # as deviations from the mean: rows of the self-attention sum to 1, so the mean passes through, but it would take
    # the digits that a small contrast needs
    mean = refined.mean(dim=1, keepdim=True)
    refined = (refined - mean) / mean.clamp(min=1e-12)
    if recorded.self_map is not None:
        for _ in range(settings.self_power):
            # S^tau m, one product at a time (Eq. 6)
            refined = recorded.self_map @ refined
    scores = min_max(refined.mT.unflatten(2, small))
    scores = 1 - scores if settings.invert else scores
    # bicubic overshoots
    return _resized(scores, size).clamp(0, 1)


def min_max(maps: torch.Tensor) -> torch.Tensor:
    """``maps (…, h, w)`` moved and scaled to [0, 1] each; one that is equal everywhere becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    # smaller differences are rounding
    span = torch.where(high - low > 1e-6, high - low, torch.inf)
    return (maps - low) / span


def attention_mask(scores: np.ndarray, settings: MaskSettings) -> AttentionMask:
    """One sample's mask from its classes' scores: the best class where it reaches the threshold (Eq. 7).

    Args:
        scores: ``(K, H, W)`` float in [0, 1]; K at most 254.
        settings: ``threshold`` and ``ignore_threshold`` are read.
    """
    best, winner = scores.max(axis=0), scores.argmax(axis=0)
    mask = np.where(best >= settings.threshold, winner + 1, 0).astype(np.uint8)
    if settings.ignore_threshold is not None:
        mask[(best < settings.threshold) & (best >= settings.ignore_threshold)] = IGNORE_LABEL
    # a threshold of 1 leaves no way up
    way = np.where(best >= settings.threshold, max(1 - settings.threshold, 1e-6), settings.threshold)
    confidence = np.minimum(np.abs(best - settings.threshold) / way, 1).astype(np.float32)
    return AttentionMask(np.asarray(scores, dtype=np.float32), mask, confidence)


def _resized(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size, mode="bicubic", align_corners=False)

"""Everything that is known about one generated image beside its class: masks, objects, heat maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .attention_maps import RecordedAttention
from .attention_masks import attention_mask, heat_maps
from .mask_regions import MaskObject, mask_objects
from .mask_settings import IGNORE_LABEL, MaskSettings

MAX_LABELS = IGNORE_LABEL - 1


@dataclass(frozen=True)
class SampleAnnotation:
    """The annotation of one image of H x W pixels.

    Attributes:
        labels: the K labels (from 0) of the classes it was asked to show.
        mask: ``(H, W)`` uint8; 0 background, label + 1, 255 ignore.
        confidence: ``(H, W)`` float32 in [0, 1], how sure each pixel's value is.
        heat_maps: ``(K, H, W)`` float32 in [0, 1], in the order of ``labels``.
        objects: the mask's connected regions; an object's ``value`` is its label + 1.
    """

    labels: list[int]
    mask: np.ndarray
    confidence: np.ndarray
    heat_maps: np.ndarray
    objects: list[MaskObject]

    @property
    def boxes(self) -> np.ndarray:
        """``(N, 4)`` int64, the objects' boxes (x0, y0, x1, y1), end exclusive."""
        return np.array([item.box for item in self.objects], dtype=np.int64).reshape(-1, 4)


def annotate(
    recorded: RecordedAttention,
    settings: MaskSettings,
    size: tuple[int, int],
    labels: Sequence[Sequence[int]],
    blackened: Sequence[bool] | None = None,
) -> list[SampleAnnotation]:
    """Annotations of B images of ``size`` (H, W) from their recorded attention.

    Args:
        recorded: attention of B samples.
        settings: how masks are made.
        size: (H, W) of the images.
        labels: for each sample its classes' labels, each in [0, 253]; maps beyond their number are not read.
        blackened: which images the safety checker blackened: their masks are ignored whole and hold no object.

    Raises:
        ValueError: a label that a mask of eight bits cannot hold.
    """
    highest = max(max(row) for row in labels)
    if highest >= MAX_LABELS:
        raise ValueError(
            f"a class has label {highest}; masks of eight bits hold {MAX_LABELS} classes beside background and ignore."
            " Generate fewer classes, or ask for heatmap alone."
        )
    all_maps = heat_maps(recorded, settings, size).cpu().numpy()
    annotations = []
    for row, maps in enumerate(all_maps):
        own = list(labels[row])
        found = attention_mask(maps[: len(own)], settings)
        # value k + 1 of the sample's own classes becomes label + 1; ignore stays
        values = np.arange(256, dtype=np.uint8)
        values[1 : len(own) + 1] = np.asarray(own) + 1
        mask = values[found.mask]
        if blackened is not None and blackened[row]:
            mask = np.full_like(mask, IGNORE_LABEL)
        objects = mask_objects(mask, found.confidence, settings.min_area)
        annotations.append(SampleAnnotation(own, mask, found.confidence, found.heat_maps, objects))
    return annotations

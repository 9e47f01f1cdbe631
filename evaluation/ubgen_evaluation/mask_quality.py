"""Intersection over union of predicted and true masks, with an ignore label: how good segmentation masks are.

Shapes: N images of H x W pixels, K classes, background included. Masks hold integers: classes in [0, K), or the
ignore label. Nothing here looks at images or needs torch.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ubgen_pipeline.mask_settings import IGNORE_LABEL


class MaskQuality(NamedTuple):
    """Quality of masks, counted over the pixels of all images together (PASCAL VOC's definition).

    ``mean_iou`` is the mean of ``iou (K,)`` over the classes that occur; ``iou`` is float64 in [0, 1], NaN for a class
    that is neither predicted nor true anywhere. ``mean_foreground_iou`` leaves out class 0; it is NaN where there is
    no other. ``pixel_accuracy`` is the share of scored pixels that are right. ``scored_share`` is the share of all
    pixels that were scored: those that neither mask ignores.
    """

    mean_iou: float
    mean_foreground_iou: float
    pixel_accuracy: float
    scored_share: float
    iou: np.ndarray


def confusion_counts(
    predicted: ArrayLike, truth: ArrayLike, num_classes: int, *, ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
    """Pixels by true and predicted class, ``(K + 1, K + 1)`` int64; the last row and column count ignored ones.

    Counts of several batches add up; :func:`quality_of_counts` reads the sum.

    Args:
        predicted: ``(N, H, W)`` or any other shape; integers in [0, K) or ``ignore_label``.
        truth: of the same shape and range.
        num_classes: K, background included.
        ignore_label: what marks pixels that are not to be scored.

    Raises:
        ValueError: unequal shapes, no pixels, values that are no integers, or one outside [0, K).
    """
    if num_classes < 1 or 0 <= ignore_label < num_classes:
        raise ValueError(
            f"num_classes is {num_classes} with ignore_label {ignore_label}; give at least one class, and a label"
            " that is none of them."
        )
    predicted = _classes(predicted, "predicted", num_classes, ignore_label)
    truth = _classes(truth, "truth", num_classes, ignore_label)
    if predicted.shape != truth.shape:
        raise ValueError(
            f"predicted has shape {predicted.shape} and truth {truth.shape}; resize the masks to one size first,"
            " with nearest neighbours."
        )
    if not truth.size:
        raise ValueError("truth holds no pixels; give at least one mask.")
    side = num_classes + 1
    return np.bincount((truth * side + predicted).ravel(), minlength=side * side).reshape(side, side)


def quality_of_counts(counts: ArrayLike) -> MaskQuality:
    """The figures of ``counts (K + 1, K + 1)`` as :func:`confusion_counts` gives them.

    Raises:
        ValueError: every pixel is ignored, so that there is nothing to score.
    """
    counts = np.asarray(counts)
    scored = counts[:-1, :-1]
    if not scored.sum():
        raise ValueError("every pixel carries the ignore label; there is nothing to score.")
    hits = np.diag(scored)
    union = scored.sum(axis=0) + scored.sum(axis=1) - hits
    iou = np.where(union > 0, hits / np.maximum(union, 1), np.nan)
    foreground = iou[1:][~np.isnan(iou[1:])]
    return MaskQuality(
        mean_iou=float(np.nanmean(iou)),
        mean_foreground_iou=float(foreground.mean()) if foreground.size else float("nan"),
        pixel_accuracy=float(hits.sum() / scored.sum()),
        scored_share=float(scored.sum() / counts.sum()),
        iou=iou,
    )


def mask_quality(
    predicted: ArrayLike, truth: ArrayLike, num_classes: int, *, ignore_label: int = IGNORE_LABEL
) -> MaskQuality:
    """IoU of each class and their mean over the pixels of all images; arguments and errors of both functions above."""
    return quality_of_counts(confusion_counts(predicted, truth, num_classes, ignore_label=ignore_label))


def _classes(masks: ArrayLike, argument: str, num_classes: int, ignore_label: int) -> np.ndarray:
    """The masks as int64 with the ignore label moved to K."""
    array = np.asarray(masks)
    if array.dtype.kind not in "iub":
        raise ValueError(f"{argument} holds {array.dtype} values; give integer classes.")
    array = array.astype(np.int64)
    ignored = array == ignore_label
    outside = (array < 0) | ((array >= num_classes) & ~ignored)
    if outside.any():
        raise ValueError(
            f"{argument} holds class {array[outside][0]}; classes go from 0 to {num_classes - 1}, and {ignore_label}"
            " marks pixels to ignore. Map the classes first."
        )
    return np.where(ignored, num_classes, array)

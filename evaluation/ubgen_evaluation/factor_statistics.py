"""How far a scene's factors (background, texture …) follow its class: the numbers behind the demo's table.

Shapes: N samples, C classes, V values of a factor. Arrays hold integers: labels in [0, C), factors in [0, V).
Factors are what a judge read off the images, or the truth where it is known; nothing here looks at pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class FactorStatistics(NamedTuple):
    """A statistic over all samples and for each class.

    ``mean`` is a float. ``per_class (C,)`` is float64, NaN for a class without samples. ``num_samples`` counts all.
    """

    mean: float
    per_class: np.ndarray
    num_samples: int


def class_accuracy(predicted: ArrayLike, labels: ArrayLike, num_classes: int | None = None) -> FactorStatistics:
    """Share of samples recognised as the class that was asked for.

    Args:
        predicted: ``(N,)`` classes read off the images.
        labels: ``(N,)`` classes asked for.
        num_classes: C; default: the largest label plus one.

    Returns:
        ``mean`` over samples, in [0, 1].

    Raises:
        ValueError: unequal lengths, no samples, values that are no integers, or a label outside [0, C).
    """
    predicted, labels = _checked(predicted, labels, "predicted")
    num_classes = _num_classes(labels, num_classes)
    return _share(predicted == labels, labels, num_classes)


def own_share(predicted_factor: ArrayLike, own_factor_per_label: Sequence[int], labels: ArrayLike) -> FactorStatistics:
    """Share of samples that carry the factor value their class owns. A world without bias gives 1 / V.

    Args:
        predicted_factor: ``(N,)`` factor values.
        own_factor_per_label: C values: position c holds the value that class c owns.
        labels: ``(N,)``.

    Returns:
        ``mean`` over samples, in [0, 1].

    Raises:
        ValueError: unequal lengths, no samples, values that are no integers, or a label that owns no value.
    """
    predicted_factor, labels = _checked(predicted_factor, labels, "predicted_factor")
    own = _integers(own_factor_per_label, "own_factor_per_label")
    num_classes = _num_classes(labels, len(own))
    return _share(predicted_factor == own[labels], labels, num_classes)


def factor_entropy(
    predicted_factor: ArrayLike, num_values: int, labels: ArrayLike, num_classes: int | None = None
) -> FactorStatistics:
    """Entropy of the factor within each class, in bits: 0 where a class has one value, log2 V where all are as common.

    It is the plug-in estimate, which lies below the truth by about (V - 1) / (2 n ln 2) bits for n samples of a class,
    so only compare datasets with as many samples per class.

    Args:
        predicted_factor: ``(N,)`` values in [0, V).
        num_values: V.
        labels: ``(N,)``.
        num_classes: C; default: the largest label plus one.

    Returns:
        ``mean`` over the classes that have samples, each weighing the same, in [0, log2 V].

    Raises:
        ValueError: unequal lengths, no samples, values that are no integers, or one out of range.
    """
    predicted_factor, labels = _checked(predicted_factor, labels, "predicted_factor")
    num_classes = _num_classes(labels, num_classes)
    if num_values < 1:
        raise ValueError(f"num_values is {num_values}; give 1 or more.")
    _check_range(predicted_factor, num_values, "predicted_factor", "num_values")
    counts = np.zeros((num_classes, num_values))
    np.add.at(counts, (labels, predicted_factor), 1)
    present = counts.sum(axis=1) > 0
    shares = counts[present] / counts[present].sum(axis=1, keepdims=True)
    # 0 log 0 is 0
    information = np.where(shares > 0, -np.log2(np.where(shares > 0, shares, 1.0)), 0.0)
    per_class = np.full(num_classes, np.nan)
    per_class[present] = (shares * information).sum(axis=1)
    return FactorStatistics(float(per_class[present].mean()), per_class, len(labels))


def _share(hits: np.ndarray, labels: np.ndarray, num_classes: int) -> FactorStatistics:
    counts = np.bincount(labels, minlength=num_classes)
    found = np.bincount(labels, weights=hits, minlength=num_classes)
    per_class = np.divide(found, counts, out=np.full(num_classes, np.nan), where=counts > 0)
    return FactorStatistics(float(hits.mean()), per_class, len(labels))


def _checked(values: ArrayLike, labels: ArrayLike, name: str) -> tuple[np.ndarray, np.ndarray]:
    values, labels = _integers(values, name), _integers(labels, "labels")
    if len(values) != len(labels):
        raise ValueError(f"{name} holds {len(values)} values for {len(labels)} labels; give one each.")
    if not len(labels):
        raise ValueError("labels is empty; give at least one sample.")
    return values, labels


def _integers(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; give one number per sample, (N,).")
    if len(array) and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} is {array.dtype}; give integers.")
    return array.astype(np.int64)


def _num_classes(labels: np.ndarray, num_classes: int | None) -> int:
    num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
    _check_range(labels, num_classes, "labels", "the number of classes")
    return num_classes


def _check_range(values: np.ndarray, stop: int, name: str, stop_name: str) -> None:
    wrong = values[(values < 0) | (values >= stop)]
    if len(wrong):
        raise ValueError(f"{name} holds {wrong[0]}, outside [0, {stop}); correct it or {stop_name}.")

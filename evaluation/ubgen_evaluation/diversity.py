"""How varied a dataset is within its classes: entropy of known factors, or distance in a CLIP's features."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .array_checks import check_features, check_integers, check_same_length
from .factor_statistics import factor_entropy


class Diversity(NamedTuple):
    """Means over classes; NaN for what was not asked for.

    Entropies are in bits, ``pairwise_distance`` is the mean of 1 - cosine over pairs of different images of a class,
    in [0, 2].
    """

    background_entropy: float
    texture_entropy: float
    pairwise_distance: float


def diversity(
    labels: ArrayLike,
    *,
    background: ArrayLike | None = None,
    texture: ArrayLike | None = None,
    num_backgrounds: int | None = None,
    num_textures: int | None = None,
    features: ArrayLike | None = None,
) -> Diversity:
    """Diversity within classes, each class weighing the same.

    Args:
        labels: ``(N,)`` classes, 0 or more.
        background: ``(N,)`` the background of each image, where it is known or a judge read it.
        texture: ``(N,)`` the same for the texture.
        num_backgrounds: number of values a background can take; default: the largest plus one.
        num_textures: the same for the texture.
        features: ``(N, F)`` a CLIP's image features, not necessarily normalised; all classes need two images.

    Raises:
        ValueError: nothing to measure, lengths that differ, NaN features, or with features a class with one image.
    """
    if background is None and texture is None and features is None:
        raise ValueError("background, texture and features are all None; give one or more to measure.")
    classes = check_integers(labels, "labels")
    distance = float("nan")
    if features is not None:
        rows = check_features(features, "features")
        check_same_length(labels=classes, features=rows)
        per_class = pairwise_distances(rows, classes)
        if any(np.isnan(value) for value in per_class.values()):
            alone = next(label for label, value in per_class.items() if np.isnan(value))
            raise ValueError(f"labels: class {alone} has one image, so no pair; give two or more, or leave it out.")
        distance = float(np.mean(list(per_class.values())))
    return Diversity(
        _entropy(background, num_backgrounds, classes, "background"),
        _entropy(texture, num_textures, classes, "texture"),
        distance,
    )


def pairwise_distances(features: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """For each label the mean of 1 - cosine over pairs of different images; NaN where it has one image.

    For m unit vectors with sum s the cosines of all ordered pairs of different ones sum to |s|^2 - m.
    """
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.where(norms > 0, norms, 1.0)
    distances: dict[int, float] = {}
    for label in np.unique(labels).tolist():
        own = directions[labels == label]
        pairs = len(own) * (len(own) - 1)
        cosines = float(np.square(own.sum(axis=0)).sum() - np.square(own).sum())
        distances[label] = 1 - cosines / pairs if pairs else float("nan")
    return distances


def _entropy(values: ArrayLike | None, num_values: int | None, labels: np.ndarray, name: str) -> float:
    if values is None:
        return float("nan")
    array = check_integers(values, name)
    check_same_length(**{"labels": labels, name: array})
    return factor_entropy(array, int(array.max()) + 1 if num_values is None else num_values, labels).mean

"""Bias of a dataset alone, by what its images show and not by what a backbone trained on it does.

Where the factors of a scene can be read (the mini world), shares and entropies of them; for real images, how features
cluster within a class, and how well the background alone says the class.
Shapes: N images of H x W pixels, F features, C classes.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .array_checks import check_features, check_integers, check_same_length

BORDER_SHARE = 0.25


class ClusterStatistics(NamedTuple):
    """``entropy`` in bits, the mean over classes of how a class's images spread over clusters; at most log2 of them.

    ``mutual_information`` between cluster and class, normalised to [0, 1]: 1 where either says the other.
    """

    entropy: float
    mutual_information: float


class BackgroundSimilarity(NamedTuple):
    """Cosines in [-1, 1] of backgrounds' features, centred on their mean, within a class and between classes.

    ``gap`` is ``within`` - ``between``, 0 where backgrounds do not follow the class. ``neighbour_accuracy`` is the
    share of images whose nearest other background belongs to their class; ``chance`` is what it would be if
    backgrounds did not follow the class.
    """

    within: float
    between: float
    gap: float
    neighbour_accuracy: float
    chance: float


def cluster_statistics(
    features: ArrayLike, labels: ArrayLike, num_clusters: int | None = None, seed: int = 0
) -> ClusterStatistics:
    """How a class's images spread over k-means clusters of the whole dataset's features.

    Args:
        features: ``(N, F)``; normalised here.
        labels: ``(N,)``.
        num_clusters: default: the number of classes.
        seed: of k-means.

    Raises:
        ValueError: lengths that differ, NaN features, or more clusters than images.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    from .factor_statistics import factor_entropy

    rows, classes = check_features(features, "features"), check_integers(labels, "labels")
    check_same_length(features=rows, labels=classes)
    num_clusters = len(np.unique(classes)) if num_clusters is None else num_clusters
    if not 1 <= num_clusters <= len(rows):
        raise ValueError(f"num_clusters is {num_clusters} for {len(rows)} images; give one from 1 to that.")
    means: Any = KMeans(num_clusters, random_state=seed)
    clusters = np.asarray(means.fit_predict(_directions(rows)), dtype=np.int64)
    _, dense = np.unique(classes, return_inverse=True)
    return ClusterStatistics(
        factor_entropy(clusters, num_clusters, dense).mean, float(normalized_mutual_info_score(classes, clusters))
    )


def background_similarity(features: ArrayLike, labels: ArrayLike) -> BackgroundSimilarity:
    """Whether images of a class have more alike backgrounds than images of different classes.

    Args:
        features: ``(N, F)`` of the backgrounds alone, see :func:`background_only`.
        labels: ``(N,)``; two or more classes, two or more images of each.

    Raises:
        ValueError: lengths that differ, NaN features, one class only, or a class with one image.
    """
    rows, classes = check_features(features, "features"), check_integers(labels, "labels")
    check_same_length(features=rows, labels=classes)
    names, dense, counts = np.unique(classes, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"labels holds the class {names[0]} only; give two or more.")
    if (counts < 2).any():
        raise ValueError(f"labels: class {names[counts < 2][0]} has one image, so no pair; give two or more.")
    # what all backgrounds share says nothing of the class
    directions = _directions(rows - rows.mean(axis=0))
    sums = np.stack([directions[dense == label].sum(axis=0) for label in range(len(names))])
    squares, own = np.square(directions).sum(), np.square(sums).sum()
    num_within = int((counts * (counts - 1)).sum())
    within = (own - squares) / num_within
    between = (np.square(sums.sum(axis=0)).sum() - own) / (len(rows) * (len(rows) - 1) - num_within)
    hits = 0
    for start in range(0, len(rows), 1000):
        cosines = directions[start : start + 1000] @ directions.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        hits += int((dense[cosines.argmax(axis=1)] == dense[start : start + 1000]).sum())
    chance = num_within / (len(rows) * (len(rows) - 1))
    return BackgroundSimilarity(
        float(within), float(between), float(within - between), hits / len(rows), float(chance)
    )


def background_only(image: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
    """An image whose object is painted over with the mean colour of the rest.

    Args:
        image: ``(H, W, 3)`` uint8.
        mask: ``(H, W)`` true on the object; without it the middle goes and a quarter of each side stays.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: another shape or type, or a mask that leaves nothing.
    """
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"image is {pixels.shape} {pixels.dtype}; give (H, W, 3) uint8.")
    if mask is None:
        covered = np.zeros(pixels.shape[:2], dtype=bool)
        height, width = pixels.shape[0], pixels.shape[1]
        top, left = max(1, round(BORDER_SHARE * height)), max(1, round(BORDER_SHARE * width))
        covered[top : height - top, left : width - left] = True
    else:
        covered = np.asarray(mask).astype(bool)
        if covered.shape != pixels.shape[:2]:
            raise ValueError(f"mask is {covered.shape} for an image of {pixels.shape[:2]}; give one of its size.")
    if covered.all():
        raise ValueError("mask covers the whole image, so no background is left; leave the image out.")
    background = pixels.copy()
    background[covered] = pixels[~covered].mean(axis=0).round().astype(np.uint8)
    return background


def _directions(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)

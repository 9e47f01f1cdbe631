"""Class names with several meanings: whether the images of a class fall into two groups.

Shapes: N images, F features, n images of one class.

A name such as "crane" draws birds and machines (the stated limitation of lbGen, arXiv 2412.10831). k-means finds two
groups in anything, so the split is compared with what it finds in a Gaussian of the same covariance, as SigClust does
(Liu et al. 2008): its cluster index is the share of the variance that is left within the two groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

MIN_IMAGES = 8
_NUM_STARTS = 4


@dataclass(frozen=True)
class GroupSplit:
    """How a class's images split into two groups.

    Attributes:
        groups: ``(n,)`` 0 for the larger group, 1 for the smaller.
        smaller_share: share of the smaller group in (0, 0.5].
        silhouette: mean silhouette in [-1, 1] of the two groups; near 0 where they run into each other.
        cluster_index: within-group share of the variance, in [0, 1].
        z: deviations by which the index lies below that of a Gaussian of the same covariance.
        p_value: of that under a normal law.
        centres: for each group the positions in ``(n,)`` of its images, most central first.
    """

    groups: np.ndarray
    smaller_share: float
    silhouette: float
    cluster_index: float
    z: float
    p_value: float
    centres: tuple[np.ndarray, np.ndarray]


def split_in_two(features: ArrayLike, *, num_null: int = 50, seed: int = 0) -> GroupSplit:
    """The best split of one class's images into two groups, and how far beyond chance it is.

    Args:
        features: ``(n, F)`` image features of a CLIP; only their directions count.
        num_null: Gaussian samples to compare with.
        seed: of k-means and of these samples.

    Raises:
        ValueError: fewer than ``MIN_IMAGES`` images, or features that are not finite or zero.
    """
    # imported where they are needed, like those below: `ubgen check-names --help` imports this module
    from scipy.special import ndtr

    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < MIN_IMAGES:
        raise ValueError(f"features has shape {rows.shape}; give (n, F) with at least {MIN_IMAGES} images.")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        raise ValueError("features has a row that is zero or not finite; look at that image.")
    rows = rows / norms
    # distances live in at most n - 1 dimensions, along which the variance is diagonal
    left, scales, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    points = left * scales
    rng = np.random.default_rng(seed)
    index, groups = _two_means(points, rng)
    deviations = scales / np.sqrt(len(rows) - 1)
    null = np.array([_two_means(rng.normal(size=points.shape) * deviations, rng)[0] for _ in range(num_null)])
    spread = float(null.std(ddof=1))
    z = float((null.mean() - index) / spread) if spread > 0 else 0.0
    if (groups == 1).mean() > 0.5:
        groups = 1 - groups
    centres = []
    for group in (0, 1):
        members = np.flatnonzero(groups == group)
        distance = np.linalg.norm(points[members] - points[members].mean(axis=0), axis=1)
        centres.append(members[np.argsort(distance, kind="stable")])
    return GroupSplit(
        groups,
        float((groups == 1).mean()),
        _silhouette(points, groups),
        index,
        z,
        float(ndtr(-z)),
        (centres[0], centres[1]),
    )


def split_classes(
    features: ArrayLike, labels: ArrayLike, *, num_null: int = 50, seed: int = 0
) -> dict[int, GroupSplit]:
    """:func:`split_in_two` for each class with at least ``MIN_IMAGES`` images.

    Args:
        features: ``(N, F)``.
        labels: ``(N,)`` classes.
        num_null, seed: as there.

    Raises:
        ValueError: lengths that differ.
    """
    rows, classes = np.asarray(features), np.asarray(labels)
    if rows.ndim != 2 or classes.shape != (len(rows),):
        raise ValueError(f"features is {rows.shape} and labels {classes.shape}; give (N, F) and (N,).")
    return {
        int(label): split_in_two(rows[classes == label], num_null=num_null, seed=seed)
        for label, count in zip(*np.unique(classes, return_counts=True))
        if count >= MIN_IMAGES
    }


def split_labels(splits: Mapping[int, GroupSplit], *, max_p_value: float = 0.05, min_share: float = 0.2) -> list[int]:
    """Labels whose images split beyond chance, and not for the sake of a few of them; the clearest first.

    Args:
        splits: as :func:`split_classes` gives them.
        max_p_value: in (0, 1].
        min_share: of the smaller group, in [0, 0.5]; a few odd images make a small one.

    Raises:
        ValueError: a limit out of range.
    """
    if not 0 < max_p_value <= 1:
        raise ValueError(f"max_p_value is {max_p_value}; give a number above 0, at most 1.")
    if not 0 <= min_share <= 0.5:
        raise ValueError(f"min_share is {min_share}; give a number from 0 to 0.5.")
    found = [
        label for label, split in splits.items() if split.p_value <= max_p_value and split.smaller_share >= min_share
    ]
    return sorted(found, key=lambda label: -splits[label].z)


def _two_means(points: np.ndarray, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """Cluster index and groups ``(n,)`` of the best of a few runs of 2-means."""
    # the index is a share of the variance about the mean, also of a sample whose mean is not exactly 0
    points = points - points.mean(axis=0)
    total = float((points**2).sum())
    best, best_groups = np.inf, np.zeros(len(points), dtype=np.int64)
    # the first start divides along the widest direction, the others at random
    directions = rng.normal(size=(_NUM_STARTS, points.shape[1]))
    directions[0] = 0
    directions[0, int(points.var(axis=0).argmax())] = 1
    for direction in directions:
        groups = (points @ direction > np.median(points @ direction)).astype(np.int64)
        for _ in range(100):
            if groups.min() == groups.max():
                break
            means = np.stack([points[groups == group].mean(axis=0) for group in (0, 1)])
            # nearer to the second mean
            new = (points @ (means[1] - means[0]) > (means[1] ** 2 - means[0] ** 2).sum() / 2).astype(np.int64)
            if (new == groups).all():
                break
            groups = new
        if groups.min() == groups.max():
            continue
        parts = (points[groups == 0], points[groups == 1])
        within = sum(float(((part - part.mean(axis=0)) ** 2).sum()) for part in parts)
        if within < best:
            best, best_groups = within, groups
    return (best / total if total else 1.0), best_groups


def _silhouette(points: np.ndarray, groups: np.ndarray) -> float:
    """Mean of (b - a) / max(a, b): mean distance a within the own group, b to the other (Rousseeuw 1987)."""
    if groups.min() == groups.max():
        return 0.0
    from scipy.spatial.distance import cdist

    distances = cdist(points, points)
    own = groups[:, None] == groups[None]
    sizes = own.sum(axis=1)
    within = np.where(own, distances, 0).sum(axis=1) / np.maximum(sizes - 1, 1)
    between = np.where(own, 0, distances).sum(axis=1) / (len(groups) - sizes)
    # an image alone in its group counts 0
    values = np.where(sizes > 1, (between - within) / np.maximum(np.maximum(within, between), 1e-300), 0)
    return float(values.mean())

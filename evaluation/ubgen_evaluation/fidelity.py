"""Fidelity of generated images to real ones, in any feature space: FID, KID, precision, recall, and CAS.

FID and KID are torchmetrics'; precision and recall follow Kynkäänniemi et al. 2019, the classification accuracy score
Ravuri and Vinyals 2019 with a linear probe in place of a whole network (``training/train_backbone.py`` trains one).
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .array_checks import check_features, check_same_length, check_same_width
from .linear_transfer import linear_transfer


class Fidelity(NamedTuple):
    """``fid`` and ``kid`` are 0 for equal distributions; the others are shares in [0, 1].

    ``kid_standard_deviation`` is over subsets. ``classification_accuracy`` is NaN where no labels were given.
    """

    fid: float
    kid: float
    kid_standard_deviation: float
    precision: float
    recall: float
    classification_accuracy: float


def fidelity(
    real_features: ArrayLike,
    generated_features: ArrayLike,
    *,
    real_labels: ArrayLike | None = None,
    generated_labels: ArrayLike | None = None,
    nearest_k: int = 3,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> Fidelity:
    """Compare generated with real images by their features.

    FID depends on the number of images: only compare figures of as many. KID does not.

    Args:
        real_features: ``(N, F)``.
        generated_features: ``(M, F)`` of the same backbone.
        real_labels: ``(N,)`` with ``generated_labels``: also train a probe on the generated and test it on the real.
        generated_labels: ``(M,)``; two or more images of each class.
        nearest_k: neighbours that the radius of precision and recall reaches to.
        num_subsets: subsets that KID is averaged over.
        subset_size: images of each kind in a subset; at most min(N, M).
        seed: of KID's subsets and of the probe.

    Raises:
        ValueError: NaN, widths that differ, fewer than ``nearest_k`` + 1 images of a kind, or labels of one kind only.
    """
    real = check_features(real_features, "real_features")
    generated = check_features(generated_features, "generated_features")
    check_same_width(real_features=real, generated_features=generated)
    if (real_labels is None) != (generated_labels is None):
        raise ValueError("labels are given of one kind of images only; give real_labels and generated_labels.")
    if nearest_k < 1:
        raise ValueError(f"nearest_k is {nearest_k}; give 1 or more.")
    least = max(nearest_k + 1, 2)
    for name, rows in (("real_features", real), ("generated_features", generated)):
        if len(rows) < least:
            raise ValueError(f"{name} holds {len(rows)} rows; nearest_k {nearest_k} needs {least} or more.")
    kid, kid_deviation = kernel_distance(real, generated, num_subsets, subset_size, seed)
    accuracy = float("nan")
    if real_labels is not None and generated_labels is not None:
        accuracy = classification_accuracy_score(generated, generated_labels, real, real_labels, seed=seed)
    return Fidelity(
        frechet_distance(real, generated),
        kid,
        kid_deviation,
        manifold_share(generated, real, nearest_k),
        manifold_share(real, generated, nearest_k),
        accuracy,
    )


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Fréchet distance between normal distributions fitted to both, ``(N, F)`` and ``(M, F)``, in float64."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_PassThrough(real.shape[1]), normalize=True)
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(generated), real=False)
    return float(metric.compute())


def kernel_distance(
    real: np.ndarray, generated: np.ndarray, num_subsets: int, subset_size: int, seed: int
) -> tuple[float, float]:
    """Unbiased squared MMD under the cubic kernel (x·y / F + 1)^3: mean and standard deviation over random subsets."""
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    if num_subsets < 1 or subset_size < 2:
        raise ValueError(f"num_subsets is {num_subsets} and subset_size {subset_size}; give 1 and 2 or more.")
    size = min(subset_size, len(real), len(generated))
    with warnings.catch_warnings():
        # it keeps all features, which the caller does anyway
        warnings.simplefilter("ignore", UserWarning)
        metric = KernelInceptionDistance(
            feature=_PassThrough(real.shape[1]), subsets=num_subsets, subset_size=size, normalize=True
        )
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(generated), real=False)
    # torchmetrics draws the subsets from torch's own generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def manifold_share(rows: np.ndarray, support: np.ndarray, nearest_k: int) -> float:
    """Share of ``rows`` within the balls around ``support`` that reach to each point's k-th nearest other point.

    Precision with generated rows on real support, recall the other way round.
    """
    from sklearn.neighbors import NearestNeighbors

    # the nearest point of the set is the point itself
    neighbours = NearestNeighbors(n_neighbors=nearest_k + 1, algorithm="brute").fit(support)
    radii = np.asarray(neighbours.kneighbors(support)[0])[:, -1]
    inside = 0
    # pieces, so that 50,000 x 50,000 distances never lie in memory
    for piece in np.array_split(rows, max(1, len(rows) // 1000)):
        squares = np.square(piece).sum(axis=1)[:, None] + np.square(support).sum(axis=1) - 2 * piece @ support.T
        # the difference cancels where points coincide; such points are inside any ball
        tolerance = 1e-12 * np.square(support).sum(axis=1).max()
        inside += int((squares <= np.square(radii) + tolerance).any(axis=1).sum())
    return inside / len(rows)


def classification_accuracy_score(
    generated_features: ArrayLike,
    generated_labels: ArrayLike,
    real_features: ArrayLike,
    real_labels: ArrayLike,
    *,
    seed: int | Sequence[int] = 0,
) -> float:
    """CAS: accuracy on real images, in [0, 1], of a linear probe that has seen generated ones only.

    Raises:
        ValueError: as :func:`ubgen_evaluation.linear_transfer`.
    """
    rows, labels = check_features(generated_features, "generated_features"), np.asarray(generated_labels)
    check_same_length(generated_features=rows, generated_labels=labels)
    return linear_transfer(rows, labels, None, None, real_features, real_labels, seed).accuracy


def _PassThrough(num_features: int):  # noqa: N802
    """What torchmetrics takes for an image encoder: features in, the same features out."""
    from torch import nn

    encoder = nn.Identity()
    # torchmetrics would otherwise send an image through to count the features
    encoder.num_features = num_features  # pyright: ignore
    return encoder

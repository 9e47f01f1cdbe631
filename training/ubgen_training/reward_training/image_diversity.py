"""How different the images of one class are from each other: what a collapsing generator loses first."""

import torch
from torch.nn.functional import normalize


def class_diversity(features: torch.Tensor, labels: torch.Tensor) -> dict[int, float]:
    """For each label the mean of 1 - cosine over all pairs of different images that carry it.

    0 where all its images have one feature direction, 1 where the directions are orthogonal on average. For m unit
    vectors with sum s, the cosines of all ordered pairs of different ones sum to |s|^2 - m, so no pair is formed.

    Args:
        features: ``(S, F)`` of S images, not necessarily normalised.
        labels: ``(S,)`` integer.

    Returns:
        A number in [0, 2] for each label that two or more images carry, in the labels' order.

    Raises:
        ValueError: the lengths differ.
    """
    if len(features) != len(labels):
        raise ValueError(f"features holds {len(features)} rows for {len(labels)} labels; give one each.")
    # float64: |s|^2 - m cancels where the images are nearly alike
    directions = normalize(features.double(), dim=1)
    diversity: dict[int, float] = {}
    for label in sorted(set(labels.tolist())):
        own = directions[labels == label]
        count = len(own)
        if count > 1:
            cosines = own.sum(dim=0).square().sum() - own.square().sum()
            diversity[label] = 1 - cosines.item() / (count * (count - 1))
    return diversity

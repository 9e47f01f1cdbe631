"""Context bias: how accuracy falls as a scene gets less usual (arXiv 2412.10831, Eq. 9; images of FOCUS).

Partition P_k holds the images with k uncommon attributes out of time, weather and location.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .array_checks import check_flags, check_integers, check_same_length

MAX_UNCOMMON = 3


class ContextBias(NamedTuple):
    """``accuracy_k`` of partition P_k in [0, 1], and ``cb_k`` = ``accuracy_k`` / ``accuracy_0``; 1 is no bias.

    ``average`` is the mean of the three ratios (Eq. 9), ``pooled`` the accuracy on all images with an uncommon
    attribute over ``accuracy_0``. Ratios are NaN where ``accuracy_0`` is 0.
    """

    accuracy_0: float
    accuracy_1: float
    accuracy_2: float
    accuracy_3: float
    cb_1: float
    cb_2: float
    cb_3: float
    average: float
    pooled: float


def context_bias(correct: ArrayLike, num_uncommon: ArrayLike) -> ContextBias:
    """Accuracy in unusual contexts relative to that in usual ones.

    Args:
        correct: ``(N,)`` whether each image was recognised.
        num_uncommon: ``(N,)`` its number of uncommon attributes, 0 to 3.

    Raises:
        ValueError: the lengths differ, a number is outside 0 to 3, or a partition is empty.
    """
    hits, counts = check_flags(correct, "correct"), check_integers(num_uncommon, "num_uncommon")
    check_same_length(correct=hits, num_uncommon=counts)
    wrong = counts[(counts < 0) | (counts > MAX_UNCOMMON)]
    if len(wrong):
        raise ValueError(f"num_uncommon holds {wrong[0]}; it counts uncommon attributes out of three, 0 to 3.")
    sizes = np.bincount(counts, minlength=MAX_UNCOMMON + 1)
    if not sizes.all():
        raise ValueError(
            f"num_uncommon: partition P_{int(np.flatnonzero(sizes == 0)[0])} is empty; give images with 0, 1, 2 and 3 "
            "uncommon attributes."
        )
    accuracies = [float(hits[counts == k].mean()) for k in range(MAX_UNCOMMON + 1)]
    usual = accuracies[0] or float("nan")
    ratios = [accuracy / usual for accuracy in accuracies[1:]]
    pooled = float(hits[counts > 0].mean()) / usual
    values = (*accuracies, *ratios, sum(ratios) / len(ratios), pooled)
    return ContextBias._make(values)

"""Background gap: what accuracy owes to the background (ImageNet-9, Xiao et al. 2021).

Mixed-Same puts a foreground on another image's background of the same class, Mixed-Rand on one of a random class.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .array_checks import check_flags, check_integers, check_same_length

NUM_COARSE_CLASSES = 9
UNMAPPED = -1


class BackgroundGap(NamedTuple):
    """Accuracies in [0, 1]; ``gap`` is ``mixed_same`` - ``mixed_rand``, in [-1, 1]."""

    mixed_same: float
    mixed_rand: float
    gap: float


def background_gap(mixed_same_correct: ArrayLike, mixed_rand_correct: ArrayLike) -> BackgroundGap:
    """Accuracy on backgrounds of the own class minus that on random ones.

    Args:
        mixed_same_correct: ``(N,)`` whether each Mixed-Same image was recognised.
        mixed_rand_correct: ``(N,)`` the same for Mixed-Rand: the same foregrounds, so as many.

    Raises:
        ValueError: the lengths differ, or one is empty.
    """
    same = check_flags(mixed_same_correct, "mixed_same_correct")
    rand = check_flags(mixed_rand_correct, "mixed_rand_correct")
    check_same_length(mixed_same_correct=same, mixed_rand_correct=rand)
    return BackgroundGap(float(same.mean()), float(rand.mean()), float(same.mean() - rand.mean()))


def load_coarse_classes(file: str | Path, num_classes: int = 1000) -> np.ndarray:
    """Read the published mapping of ImageNet-1k's classes to the nine coarse ones.

    Args:
        file: JSON, ``{"0": 0, "1": -1, …}`` as published with ImageNet-9 (``in_to_in9.json``), or a list.
        num_classes: C.

    Returns:
        ``(C,)`` int64 in [-1, 9); -1 for a class that belongs to none.

    Raises:
        ValueError: it cannot be read, misses a class, or maps one outside [-1, 9).
    """
    path = Path(file)
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} could not be read as a JSON map of classes: {error}") from error
    if isinstance(raw, Mapping):
        missing = [index for index in range(num_classes) if str(index) not in raw]
        if missing or len(raw) != num_classes:
            what = f"misses class {missing[0]}" if missing else f"holds {len(raw)} classes"
            raise ValueError(f"{path} {what}; map each of the {num_classes} classes, -1 for none of the nine.")
        raw = [raw[str(index)] for index in range(num_classes)]
    if not isinstance(raw, Sequence) or len(raw) != num_classes:
        raise ValueError(f"{path} maps {len(raw)} classes; map each of {num_classes}, -1 for none of the nine.")
    wrong = [(i, v) for i, v in enumerate(raw) if type(v) is not int or not UNMAPPED <= v < NUM_COARSE_CLASSES]
    if wrong:
        raise ValueError(f"{path} maps class {wrong[0][0]} to {wrong[0][1]!r}, outside [-1, {NUM_COARSE_CLASSES}).")
    return np.array(raw, dtype=np.int64)


def coarse_correct(predicted: ArrayLike, labels: ArrayLike, coarse_classes: ArrayLike) -> np.ndarray:
    """Whether each prediction falls into its image's coarse class; a class that belongs to none is wrong.

    Args:
        predicted: ``(N,)`` fine classes in [0, C).
        labels: ``(N,)`` coarse classes in [0, 9).
        coarse_classes: ``(C,)`` what :func:`load_coarse_classes` gives.

    Returns:
        ``(N,)`` bool.

    Raises:
        ValueError: the lengths differ, or a class or label is outside its range.
    """
    fine, coarse = check_integers(predicted, "predicted"), check_integers(labels, "labels")
    mapping = check_integers(coarse_classes, "coarse_classes")
    check_same_length(predicted=fine, labels=coarse)
    for name, values, stop in (("predicted", fine, len(mapping)), ("labels", coarse, NUM_COARSE_CLASSES)):
        wrong = values[(values < 0) | (values >= stop)]
        if len(wrong):
            raise ValueError(f"{name} holds {wrong[0]}, outside [0, {stop}).")
    return mapping[fine] == coarse

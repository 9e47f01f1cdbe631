"""Checks that every measure makes of its arrays: lengths, kinds and ranges, with the argument's name in the error."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def check_flags(values: ArrayLike, name: str) -> np.ndarray:
    """``values`` as ``(N,)`` bool; N is 1 or more.

    Raises:
        ValueError: another shape, no values, or values that are neither truth values nor 0 and 1.
    """
    array = np.asarray(values)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} has shape {array.shape}; give one truth value per sample, (N,) with N of 1 or more.")
    # strings and NaN would count as true
    if array.dtype != bool and not (np.issubdtype(array.dtype, np.number) and np.isin(array, (0, 1)).all()):
        raise ValueError(f"{name} holds {array.dtype} values other than 0 and 1; give truth values.")
    return array.astype(bool)


def check_integers(values: ArrayLike, name: str) -> np.ndarray:
    """``values`` as ``(N,)`` int64.

    Raises:
        ValueError: another shape, or values that are no integers.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; give one number per sample, (N,).")
    if len(array) and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} is {array.dtype}; give integers.")
    return array.astype(np.int64)


def check_features(values: Any, name: str) -> np.ndarray:
    """``values`` as finite float64 ``(N, F)``, N and F of 1 or more.

    Raises:
        ValueError: another shape, values that are no numbers, or one that is NaN or infinite (its row is named).
    """
    array = np.asarray(values)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}; give one row of features per sample, (N, F).")
    try:
        array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {array.dtype}; give numbers.") from error
    wrong = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"{name} has NaN or infinite values in {len(wrong)} of {len(array)} rows, first in row {wrong[0]}; "
            "look at that image and at the backbone's precision."
        )
    return array


def check_same_length(**arrays: Any) -> None:
    """Raise ``ValueError`` with all lengths unless they are equal and not 0."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"the lengths differ ({listed}); give one value per sample in each.")
    if not next(iter(lengths.values())):
        raise ValueError(f"{next(iter(lengths))} is empty; give at least one sample.")


def check_same_width(**arrays: np.ndarray) -> None:
    """Raise ``ValueError`` unless all features ``(N, F)`` have the same F."""
    widths = {name: array.shape[1] for name, array in arrays.items()}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise ValueError(f"the numbers of features differ ({listed}); take all from one backbone.")

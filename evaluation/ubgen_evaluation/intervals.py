"""Confidence intervals of any measure: by resampling the samples, or by Student's t over seeds."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .array_checks import check_same_length

LEVEL = 0.95


class Interval(NamedTuple):
    """A figure and the ends of its 95% interval, NaN where there is none."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    measure: Callable[..., float], *arrays: np.ndarray, num_resamples: int = 1000, seed: int = 0
) -> Interval:
    """Percentile interval over resamples of the samples, which all arrays share.

    Args:
        measure: arrays to a number; a resample on which it is undefined (``ValueError`` or NaN) is left out.
        arrays: ``(N, …)`` each.
        num_resamples: 2 or more.
        seed: of the resamples, so that two datasets of N samples are resampled alike.

    Raises:
        ValueError: lengths that differ, or what ``measure`` says of the arrays themselves.
    """
    check_same_length(**{f"array {i}": array for i, array in enumerate(arrays)})
    if num_resamples < 2:
        raise ValueError(f"num_resamples is {num_resamples}; give 2 or more.")
    value, rng, found = float(measure(*arrays)), np.random.default_rng(seed), []
    for _ in range(num_resamples):
        chosen = rng.integers(len(arrays[0]), size=len(arrays[0]))
        try:
            found.append(float(measure(*(array[chosen] for array in arrays))))
        except ValueError:
            continue
    kept = [one for one in found if np.isfinite(one)]
    if len(kept) < num_resamples / 2:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def seed_interval(values: Sequence[float]) -> Interval:
    """Mean over seeds with the t interval of the mean; no interval for one seed.

    Raises:
        ValueError: no values.
    """
    from scipy.stats import t

    if not len(values):
        raise ValueError("values is empty; give one or more.")
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)

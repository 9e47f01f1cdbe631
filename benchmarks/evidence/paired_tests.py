"""Means over seeds and paired comparisons of two arms on the same seeds; the tests are scipy's."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95


class MeanError(NamedTuple):
    """Mean over seeds and its standard error, NaN for one seed."""

    mean: float
    standard_error: float
    num_seeds: int


class PairedTest(NamedTuple):
    """Mean of the paired differences with the ends of its 95% interval, two-sided p values, and the signs.

    ``t_p`` is the paired t-test's, ``wilcoxon_p`` the signed-rank test's (exact for few seeds; it cannot fall below
    2 / 2^n for n seeds); both and the interval are NaN for one seed. ``num_positive`` counts differences above 0.
    """

    difference: float
    low: float
    high: float
    t_p: float
    wilcoxon_p: float
    num_positive: int
    num_pairs: int


def mean_error(values: Sequence[float]) -> MeanError:
    """Mean and standard error.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("values is empty; give one or more.")
    number = len(values)
    error = float(np.std(values, ddof=1) / math.sqrt(number)) if number > 1 else math.nan
    return MeanError(float(np.mean(values)), error, number)


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """``first`` minus ``second``, paired by position.

    Raises:
        ValueError: lengths that differ, or nothing to compare.
    """
    from scipy.stats import ttest_rel, wilcoxon

    if len(first) != len(second) or not len(first):
        raise ValueError(f"first holds {len(first)} values, second {len(second)}; give equally many, one or more.")
    differences = np.asarray(first, float) - np.asarray(second, float)
    number, mean = len(differences), float(differences.mean())
    num_positive = int((differences > 0).sum())
    if number < 2:
        return PairedTest(mean, math.nan, math.nan, math.nan, math.nan, num_positive, number)
    if not differences.any():
        return PairedTest(0.0, 0.0, 0.0, 1.0, 1.0, 0, number)
    with warnings.catch_warnings():
        # scipy warns of differences that are all equal (no variance) and of zeros (no exact ranks), but answers
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        test = ttest_rel(first, second)
        low, high = test.confidence_interval(LEVEL)
        ranks = float(wilcoxon(differences).pvalue)
    return PairedTest(mean, float(low), float(high), float(test.pvalue), ranks, num_positive, number)

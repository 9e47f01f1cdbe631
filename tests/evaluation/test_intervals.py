"""Intervals against closed forms."""

import math

import numpy as np
import pytest
import scipy.stats

from ubgen_evaluation.intervals import bootstrap_interval, seed_interval


def test_bootstrap_of_a_share_is_near_the_normal_interval():
    hits = np.arange(400) % 4 == 0
    found = bootstrap_interval(lambda a: a.mean(), hits, num_resamples=2000)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert found == pytest.approx((0.25, 0.25 - half, 0.25 + half), abs=0.006)
    assert bootstrap_interval(lambda a: a.mean(), hits, num_resamples=2000) == found


def test_arrays_are_resampled_together():
    values = np.arange(50)
    found = bootstrap_interval(lambda a, b: float((a == b).mean()), values, values.copy(), num_resamples=50)
    assert found == (1, 1, 1)


def test_seed_interval_is_students():
    values = [0.5, 0.6, 0.8]
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert seed_interval(values) == pytest.approx((np.mean(values), expected.low, expected.high))
    single = seed_interval([0.5])
    assert single.value == 0.5 and math.isnan(single.low)


def test_a_measure_that_is_mostly_undefined_has_no_interval():
    def fussy(array):
        if len(set(array.tolist())) < 30:
            raise ValueError("too few")
        return 1.0

    found = bootstrap_interval(fussy, np.arange(30), num_resamples=20)
    assert found.value == 1 and math.isnan(found.low)


def test_bad_input():
    with pytest.raises(ValueError, match="array 0 2, array 1 3"):
        bootstrap_interval(lambda a, b: 0.0, np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="num_resamples is 1"):
        bootstrap_interval(lambda a: 0.0, np.zeros(2), num_resamples=1)
    with pytest.raises(ValueError, match="values is empty"):
        seed_interval([])

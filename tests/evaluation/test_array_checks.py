"""Checks of the measures' arrays: what passes is given in one type, and what does not is named with its argument."""

import numpy as np
import pytest

from ubgen_evaluation.array_checks import (
    check_features,
    check_flags,
    check_integers,
    check_same_length,
    check_same_width,
)


def test_truth_values_may_be_zeros_and_ones():
    for values in ([True, False], [1, 0], np.array([1.0, 0.0])):
        flags = check_flags(values, "correct")
        assert flags.dtype == bool and flags.tolist() == [True, False]


def test_whole_numbers_become_int64_and_may_be_none_at_all():
    assert check_integers(np.array([3, 2], np.uint8), "labels").dtype == np.int64
    assert check_integers([], "labels").tolist() == []


def test_features_become_float64():
    assert check_features(np.ones((2, 3), np.float16), "features").dtype == np.float64


@pytest.mark.parametrize(
    ("check", "values", "message"),
    [
        (check_flags, [], r"^x has shape \(0,\); give one truth value"),
        (check_flags, [[True]], r"^x has shape \(1, 1\); give one truth value"),
        (check_flags, [0, 2], "^x holds int64 values other than 0 and 1"),
        (check_flags, ["yes"], "^x holds <U3 values"),
        (check_flags, [np.nan], "^x holds float64 values"),
        (check_integers, [[1]], r"^x has shape \(1, 1\); give one number"),
        (check_integers, [1.0], "^x is float64; give integers"),
        (check_integers, [True], "^x is bool; give integers"),
        (check_features, [1.0], r"^x has shape \(1,\); give one row"),
        (check_features, np.ones((2, 0)), r"^x has shape \(2, 0\)"),
        (check_features, [["a"]], "^x is <U1; give numbers"),
        (check_features, [[1.0], [np.inf], [np.nan]], "^x has NaN or infinite values in 2 of 3 rows, first in row 1"),
    ],
)
def test_what_does_not_fit_is_named(check, values, message):
    with pytest.raises(ValueError, match=message):
        check(values, "x")


def test_lengths_and_widths_are_compared_by_name():
    check_same_length(labels=[1, 2], rows=np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"the lengths differ \(labels 2, rows 3\)"):
        check_same_length(labels=[1, 2], rows=np.ones((3, 1)))
    with pytest.raises(ValueError, match="labels is empty; give at least one sample"):
        check_same_length(labels=[], rows=[])
    check_same_width(own=np.ones((2, 3)), reference=np.ones((5, 3)))
    with pytest.raises(ValueError, match=r"the numbers of features differ \(own 3, reference 4\)"):
        check_same_width(own=np.ones((2, 3)), reference=np.ones((5, 4)))

"""Means and paired tests of the evidence, against formulas written out here."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.evidence.paired_tests import mean_error, paired_test

FIRST = [0.71, 0.74, 0.69, 0.75, 0.72]
SECOND = [0.70, 0.71, 0.70, 0.70, 0.69]


def test_the_mean_has_its_standard_error():
    found = mean_error([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3)
    assert found.standard_error == pytest.approx(math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2 / 3))
    assert math.isnan(mean_error([1.0]).standard_error)


def test_the_paired_test_is_student_s_t_of_the_differences():
    found = paired_test(FIRST, SECOND)
    differences = np.subtract(FIRST, SECOND)
    error = differences.std(ddof=1) / math.sqrt(5)
    assert found.difference == pytest.approx(differences.mean())
    assert found.t_p == pytest.approx(2 * stats.t.sf(differences.mean() / error, 4))
    half = stats.t.ppf(0.975, 4) * error
    assert (found.low, found.high) == (
        pytest.approx(differences.mean() - half),
        pytest.approx(differences.mean() + half),
    )
    assert (found.num_positive, found.num_pairs) == (4, 5)


def test_the_signed_rank_test_counts_all_signs():
    # differences 1, 2, 3, 4, -5 in rank: P(W+ <= 5 or >= 10) over the 32 signs of five ranks
    differences = [1.0, 2.0, 3.0, 4.0, -5.0]
    sums = [sum(rank for rank in range(1, 6) if signs >> rank & 1) for signs in range(0, 64, 2)]
    expected = sum(total <= 5 or total >= 10 for total in sums) / 32
    assert paired_test(differences, [0.0] * 5).wilcoxon_p == pytest.approx(expected)
    assert paired_test([1.0, 2.0, 3.0], [0.0] * 3).wilcoxon_p == pytest.approx(0.25)


def test_the_order_of_the_pairs_does_not_matter_but_the_pairing_does():
    assert paired_test(FIRST[::-1], SECOND[::-1]).t_p == pytest.approx(paired_test(FIRST, SECOND).t_p)
    assert paired_test(FIRST, SECOND[::-1]).t_p != pytest.approx(paired_test(FIRST, SECOND).t_p)


def test_one_seed_has_a_difference_and_no_test():
    found = paired_test([0.5], [0.4])
    assert found.difference == pytest.approx(0.1) and math.isnan(found.t_p) and math.isnan(found.wilcoxon_p)


def test_equal_arms_are_not_called_different():
    assert paired_test([0.5, 0.6], [0.5, 0.6]).t_p == 1.0


@pytest.mark.parametrize(("first", "second"), [([1.0], [1.0, 2.0]), ([], [])])
def test_what_cannot_be_paired_is_refused(first, second):
    with pytest.raises(ValueError, match="equally many"):
        paired_test(first, second)

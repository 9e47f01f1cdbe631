"""Bias statistics against sklearn, scipy and numbers worked out by hand."""

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import accuracy_score, recall_score

from ubgen_evaluation import class_accuracy, factor_entropy, own_share


@pytest.fixture
def sample():
    rng = np.random.default_rng(5)
    labels = rng.permutation(np.arange(400) % 7)
    return labels, rng.integers(0, 7, 400), rng.integers(0, 10, 400)


def test_accuracy_matches_sklearn(sample):
    labels, predicted, _ = sample
    result = class_accuracy(predicted, labels)
    assert result.mean == pytest.approx(accuracy_score(labels, predicted))
    np.testing.assert_allclose(result.per_class, recall_score(labels, predicted, average=None))
    assert result.num_samples == 400


def test_own_share_by_hand():
    # class 0 owns value 2, class 1 owns value 0
    result = own_share([2, 2, 1, 0, 1], [2, 0], [0, 0, 0, 1, 1])
    assert result.mean == pytest.approx(3 / 5)
    np.testing.assert_allclose(result.per_class, [2 / 3, 1 / 2])


def test_own_share_is_not_the_share_of_equal_numbers(sample):
    labels, _, factor = sample
    own = np.array([3, 1, 4, 0, 5, 9, 2])
    expected = sum(factor[i] == own[labels[i]] for i in range(400)) / 400
    assert own_share(factor, own, labels).mean == pytest.approx(expected)


def test_entropy_matches_scipy_for_each_class(sample):
    labels, _, factor = sample
    result = factor_entropy(factor, 10, labels)
    expected = [entropy(np.bincount(factor[labels == c], minlength=10), base=2) for c in range(7)]
    np.testing.assert_allclose(result.per_class, expected)
    assert result.mean == pytest.approx(np.mean(expected))


def test_entropy_at_its_ends():
    assert factor_entropy([4, 4, 1], 5, [0, 0, 1]).mean == 0.0
    assert factor_entropy(np.arange(8), 8, np.zeros(8, int)).mean == pytest.approx(3.0)


def test_entropy_is_within_classes_and_weighs_classes_alike():
    # over all samples the factor has 1 bit; inside each class it has none
    assert factor_entropy([0, 0, 1, 1], 2, [0, 0, 1, 1]).mean == 0.0
    assert factor_entropy([0, 1, 0, 0, 0, 0], 2, [0, 0, 1, 1, 1, 1]).mean == pytest.approx(0.5)


def test_classes_without_samples_are_nan_and_do_not_count():
    for result, mean in (
        (class_accuracy([0, 2], [0, 2], num_classes=4), 1.0),
        (own_share([5, 6], [5, 5, 6, 5], [0, 2]), 1.0),
        (factor_entropy([0, 1], 2, [0, 0], num_classes=3), 1.0),
    ):
        assert result.mean == mean
        assert np.isnan(result.per_class[1]) and np.isnan(result.per_class[-1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_accuracy([0, 1], [0]), r"predicted holds 2 values for 1 labels"),
        (lambda: class_accuracy([], []), r"labels is empty"),
        (lambda: class_accuracy([0], [3], num_classes=3), r"labels holds 3, outside \[0, 3\)"),
        (lambda: class_accuracy([0], [-1]), r"labels holds -1"),
        (lambda: class_accuracy([0.5], [0]), r"predicted is float64; give integers"),
        (lambda: class_accuracy([[0]], [0]), r"predicted has shape \(1, 1\)"),
        (lambda: own_share([0], [0, 1], [2]), r"labels holds 2, outside \[0, 2\)"),
        (lambda: own_share([0, 1], [0], [0]), r"predicted_factor holds 2 values for 1 labels"),
        (lambda: factor_entropy([2], 2, [0]), r"predicted_factor holds 2, outside \[0, 2\)"),
        (lambda: factor_entropy([0], 0, [0]), r"num_values is 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""The linear probe against the protocol written down again without Optuna or scikit-learn's splits, and bad input."""

import math

import numpy as np
import pytest
import scipy.optimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from ubgen_evaluation import linear_transfer
from ubgen_evaluation.linear_transfer import held_out_mask


def blobs(num_per_class, spread, seed, num_classes=4, width=6, centre_seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(centre_seed).normal(size=(num_classes, width)) * 2
    labels = np.repeat(np.arange(num_classes), num_per_class)
    return centres[labels] + rng.normal(size=(len(labels), width)) * spread, labels


def own_probe(features, labels, rows, c):
    """Multinomial logistic regression with C |loss| + |w|^2 / 2 and a free intercept, by scipy."""
    num, width, classes = len(features), features.shape[1], labels.max() + 1
    inputs = np.hstack([features, np.ones((num, 1))])
    truth = np.eye(classes)[labels]

    def objective(flat):
        weights = flat.reshape(width + 1, classes)
        logits = inputs @ weights
        normaliser = logsumexp(logits, axis=1)
        penalised = weights.copy()
        penalised[-1] = 0
        value = c * (normaliser - (logits * truth).sum(axis=1)).sum() + 0.5 * np.square(penalised).sum()
        gradient = c * inputs.T @ (np.exp(logits - normaliser[:, None]) - truth) + penalised
        return value, gradient.ravel()

    start = np.zeros((width + 1) * classes)
    options = {"maxiter": 5000, "ftol": 1e-16, "gtol": 1e-12}
    found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return (np.hstack([rows, np.ones((len(rows), 1))]) @ found.x.reshape(width + 1, classes)).argmax(axis=1)


def test_against_an_own_probe_and_a_grid_search():
    train, val, test = blobs(25, 3.0, 1), blobs(5, 3.0, 2), blobs(100, 3.0, 3)
    found = linear_transfer(*train, *val, *test, 0, num_trials=20)
    features, labels = np.concatenate([train[0], val[0]]), np.concatenate([train[1], val[1]])
    held = held_out_mask(labels, np.random.default_rng(0))
    scores = {
        c: (own_probe(features[~held], labels[~held], features[held], c) == labels[held]).mean()
        for c in np.logspace(-5, 2, 15)
    }
    # the search finds as good a score as the grid, and the probe at its C is the one scipy finds
    assert found.validation_accuracy >= max(scores.values()) - 0.05
    predicted = own_probe(features, labels, test[0], found.c)
    assert found.accuracy == pytest.approx((predicted == test[1]).mean(), abs=0.01)
    assert 0.4 < found.accuracy < 0.95 and math.isnan(found.standard_error)
    assert all(type(value) is float for value in found)


def test_the_probe_is_refitted_on_train_and_validation_with_features_as_they_are():
    train, val, test = blobs(6, 2.0, 1), blobs(30, 2.0, 2), blobs(50, 2.0, 3)
    found = linear_transfer(*train, *val, *test, 5, num_trials=6)
    both = np.concatenate([train[0], val[0]]), np.concatenate([train[1], val[1]])
    probe = LogisticRegression(C=found.c, max_iter=2000).fit(*both)
    assert found.accuracy == pytest.approx(probe.score(*test))
    assert linear_transfer(*both, None, None, *test, 5, num_trials=6) == found


def test_several_seeds_are_averaged():
    train, test = blobs(20, 3.0, 1), blobs(50, 3.0, 3)
    single = [linear_transfer(*train, None, None, *test, seed, num_trials=4) for seed in (0, 1, 2)]
    found = linear_transfer(*train, None, None, *test, [0, 1, 2], num_trials=4)
    accuracies = [one.accuracy for one in single]
    assert found.accuracy == pytest.approx(np.mean(accuracies))
    assert found.standard_error == pytest.approx(np.std(accuracies, ddof=1) / math.sqrt(3))
    assert found.c == pytest.approx(math.prod(one.c for one in single) ** (1 / 3))


def test_a_fifth_of_each_class_is_held_out():
    labels = np.repeat([0, 1, 2], [50, 10, 2])
    mask = held_out_mask(labels, np.random.default_rng(0))
    assert np.bincount(labels[mask]).tolist() == [10, 2, 1]
    assert (mask != held_out_mask(labels, np.random.default_rng(1))).any()


def test_names_as_labels():
    rows, labels = blobs(10, 0.1, 1)
    names = np.array(["a", "b", "c", "d"])
    assert linear_transfer(rows, names[labels], None, None, rows, names[labels], num_trials=2).accuracy == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": np.zeros(7, int)}, "train_features 8, train_labels 7"),
        ({"test_features": np.zeros((8, 3))}, "train_features 2, test_features 3"),
        ({"train_features": np.full((8, 2), np.nan)}, "train_features has NaN or infinite values in 8 of 8 rows"),
        ({"train_labels": np.array([0, 0, 0, 0, 1, 1, 1, 2])}, "class 2 has one sample"),
        ({"train_labels": np.zeros(8, int)}, "class 0 only"),
        ({"test_labels": np.full(8, 7)}, "class 7, of which there is nothing to train on"),
        ({"val_features": np.zeros((1, 2))}, "give both or neither"),
        ({"seed": []}, "empty list"),
        ({"train_labels": np.arange(8) / 2}, "train_labels has shape"),
        ({"test_features": np.zeros((0, 2)), "test_labels": np.zeros(0, int)}, "test_features has shape"),
    ],
)
def test_bad_input(change, message):
    arguments = {
        "train_features": np.arange(16.0).reshape(8, 2),
        "train_labels": np.arange(8) % 2,
        "val_features": None,
        "val_labels": None,
        "test_features": np.zeros((8, 2)),
        "test_labels": np.arange(8) % 2,
        "seed": 0,
    }
    with pytest.raises(ValueError, match=message):
        linear_transfer(**{**arguments, **change})

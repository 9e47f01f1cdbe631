"""FID, KID, precision and recall against their definitions written out with numpy and scipy."""

import math

import numpy as np
import pytest
import scipy.linalg
from scipy.spatial.distance import cdist

from ubgen_evaluation import classification_accuracy_score, fidelity

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(120, 5))
GENERATED = RNG.normal(0.4, 1.5, size=(90, 5))


def frechet(first, second):
    means = [rows.mean(axis=0) for rows in (first, second)]
    covariances = [np.cov(rows, rowvar=False) for rows in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    return np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)


def squared_mmd(first, second):
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def off_diagonal(matrix):
        return (matrix.sum() - np.trace(matrix)) / (len(matrix) * (len(matrix) - 1))

    return off_diagonal(kernel(first, first)) + off_diagonal(kernel(second, second)) - 2 * kernel(first, second).mean()


def coverage(rows, support, k):
    own = np.sort(cdist(support, support), axis=1)[:, k]
    return float((cdist(rows, support) <= own).any(axis=1).mean())


def test_against_the_definitions():
    # subsets as large as both sets are the sets themselves, so that KID has nothing random
    generated = GENERATED[:90]
    real = REAL[:90]
    found = fidelity(real, generated, subset_size=90, num_subsets=2)
    assert found.fid == pytest.approx(frechet(real, generated), rel=1e-6)
    assert found.kid == pytest.approx(squared_mmd(real, generated), rel=1e-6)
    assert found.kid_standard_deviation == pytest.approx(0, abs=1e-9)
    assert found.precision == coverage(generated, real, 3) and found.recall == coverage(real, generated, 3)
    assert 0 < found.precision < found.recall < 1 and math.isnan(found.classification_accuracy)
    assert fidelity(real, generated, nearest_k=1, num_subsets=1).precision == coverage(generated, real, 1)


def test_equal_sets():
    found = fidelity(REAL, REAL, num_subsets=3, subset_size=50)
    assert found.fid == pytest.approx(0, abs=1e-6) and (found.precision, found.recall) == (1, 1)


def test_kid_over_subsets_is_repeatable_and_leaves_the_random_state_alone():
    import torch

    before = torch.random.get_rng_state()
    first = fidelity(REAL, GENERATED, num_subsets=5, subset_size=30, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert fidelity(REAL, GENERATED, num_subsets=5, subset_size=30, seed=1) == pytest.approx(first, nan_ok=True)
    assert fidelity(REAL, GENERATED, num_subsets=5, subset_size=30, seed=2).kid != first.kid
    assert first.kid == pytest.approx(squared_mmd(REAL, GENERATED), rel=0.3)


def test_cas_is_the_accuracy_on_real_images_of_a_probe_on_generated_ones():
    labels = np.arange(120) % 3
    real = REAL + 4 * np.eye(5)[labels]
    # the generator has swapped two classes
    generated, swapped = real + 0.1, np.array([1, 0, 2])[labels]
    assert classification_accuracy_score(generated, swapped, real, labels) == pytest.approx(1 / 3, abs=0.1)
    found = fidelity(real, generated, real_labels=labels, generated_labels=labels, num_subsets=2)
    assert found.classification_accuracy > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generated_features": GENERATED[:, :4]}, "real_features 5, generated_features 4"),
        ({"generated_features": GENERATED * np.inf}, "generated_features has NaN"),
        ({"real_features": REAL[:3]}, "real_features holds 3 rows; nearest_k 3 needs 4"),
        ({"real_labels": np.zeros(120, int)}, "one kind of images only"),
        ({"nearest_k": 0}, "nearest_k is 0"),
        ({"num_subsets": 0}, "num_subsets is 0"),
        (
            {"real_labels": np.zeros(120, int), "generated_labels": np.zeros(3, int)},
            "generated_features 90, generated_labels 3",
        ),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        fidelity(**{"real_features": REAL, "generated_features": GENERATED, **change})

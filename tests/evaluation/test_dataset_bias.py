"""Statistics of a dataset alone against scikit-learn, and worlds that are biased or not."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier

from ubgen_evaluation.dataset_bias import background_only, background_similarity, cluster_statistics


def test_background_similarity_against_all_pairs():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([2, 4, 7], [5, 8, 9]))
    features = rng.normal(size=(22, 6)) + 2 * np.eye(6)[labels % 3] + 5
    found = background_similarity(features, labels)
    cosines = cosine_similarity(features - features.mean(axis=0))
    equal, different = labels[:, None] == labels, ~np.eye(22, dtype=bool)
    assert found.within == pytest.approx(cosines[equal & different].mean())
    assert found.between == pytest.approx(cosines[~equal].mean())
    assert found.gap == pytest.approx(found.within - found.between) and found.gap > 0.1
    assert found.chance == pytest.approx((equal & different).sum() / different.sum())
    hits = []
    for i in range(22):
        others = np.arange(22) != i
        directions = features - features.mean(axis=0)
        probe = KNeighborsClassifier(1, metric="cosine").fit(directions[others], labels[others])
        hits.append(probe.predict(directions[i : i + 1])[0] == labels[i])
    assert found.neighbour_accuracy == pytest.approx(np.mean(hits))


def test_backgrounds_that_do_not_follow_the_class():
    rng = np.random.default_rng(0)
    found = background_similarity(rng.normal(size=(600, 12)), np.arange(600) % 6)
    assert abs(found.gap) < 0.01 and found.neighbour_accuracy == pytest.approx(found.chance, abs=0.06)


def test_clusters():
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 4
    own = 5 * np.eye(4)[labels] + rng.normal(size=(80, 4)) * 0.01
    found = cluster_statistics(own, labels)
    assert found == pytest.approx((0, 1), abs=1e-6)
    # four modes that every class shows alike
    shared = 5 * np.eye(4)[np.arange(80) // 4 % 4] + rng.normal(size=(80, 4)) * 0.01
    found = cluster_statistics(shared, labels)
    assert found == pytest.approx((2, 0), abs=1e-6)


def test_background_only():
    image = np.full((8, 12, 3), 10, np.uint8)
    image[2:6, 3:9] = 200
    assert (background_only(image) == 10).all()
    mask = np.zeros((8, 12), bool)
    mask[0, 0] = True
    left = background_only(image, mask)
    assert (left[3, 4] == 200).all() and tuple(left[0, 0]) == (58, 58, 58)
    assert (image[2:6, 3:9] == 200).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: background_similarity(np.eye(3), [0, 0, 1]), "class 1 has one image"),
        (lambda: background_similarity(np.eye(2), [0, 0]), "class 0 only"),
        (lambda: background_similarity(np.full((4, 2), np.nan), [0, 0, 1, 1]), "features has NaN"),
        (lambda: background_similarity(np.eye(3), [0, 0]), "features 3, labels 2"),
        (lambda: cluster_statistics(np.eye(3), [0, 0, 1], num_clusters=4), "num_clusters is 4 for 3 images"),
        (lambda: background_only(np.zeros((4, 4, 3))), "float64; give"),
        (lambda: background_only(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4))), "covers the whole image"),
        (lambda: background_only(np.zeros((4, 4, 3), np.uint8), np.ones((4, 5))), "give one of its size"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

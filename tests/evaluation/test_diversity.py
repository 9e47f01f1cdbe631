"""Diversity against scipy's entropy and distances."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import entropy

from ubgen_evaluation import diversity


def test_against_scipy():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 5], [10, 20, 30]))
    background, texture = rng.integers(0, 4, 60), rng.integers(0, 3, 60)
    features = rng.normal(size=(60, 7)) * rng.uniform(0.1, 9, size=(60, 1))
    found = diversity(labels, background=background, texture=texture, num_textures=10, features=features)

    def mean(values):
        return np.mean([values(labels == label) for label in (0, 1, 5)])

    assert found.background_entropy == pytest.approx(mean(lambda m: entropy(np.bincount(background[m]), base=2)))
    assert found.texture_entropy == pytest.approx(mean(lambda m: entropy(np.bincount(texture[m]), base=2)))
    assert found.pairwise_distance == pytest.approx(mean(lambda m: pdist(features[m], "cosine").mean()))


def test_what_is_not_given_is_nan():
    found = diversity([0, 0, 1, 1], features=np.eye(4))
    assert found.pairwise_distance == 1 and math.isnan(found.background_entropy) and math.isnan(found.texture_entropy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "all None"),
        ({"background": [0, 1]}, "labels 3, background 2"),
        ({"features": np.ones((3, 2))}, "class 1 has one image"),
        ({"features": np.full((3, 2), np.nan)}, "features has NaN"),
        ({"background": [0, 1, 4], "num_backgrounds": 3}, "holds 4"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        diversity([0, 0, 1], **arguments)

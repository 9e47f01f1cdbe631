"""Diversity per class against closed forms and against the pairs written out."""

import pytest
import torch

from ubgen_training.reward_training.guards import class_diversity


def test_one_direction_is_0_orthogonal_ones_are_1_and_opposite_ones_are_2():
    features = torch.tensor([[1.0, 0], [3, 0], [0, 5], [2, 0], [0, 1], [0, -4]])
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert class_diversity(features, labels) == pytest.approx({0: 0.0, 1: 1.0, 2: 2.0})


def test_three_at_sixty_degrees():
    """Directions at 0, 60 and 120 degrees: cosines 1/2, 1/2 and -1/2."""
    angles = torch.tensor([0.0, 60.0, 120.0]).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert class_diversity(features, torch.zeros(3, dtype=torch.long))[0] == pytest.approx(1 - 0.5 / 3)


def test_it_equals_the_mean_over_pairs_and_classes_do_not_mix():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(11, 7, generator=generator)
    labels = torch.tensor([4, 1, 4, 1, 1, 4, 4, 9, 1, 4, 1])
    own = class_diversity(features, labels)
    assert list(own) == [1, 4]
    for label, value in own.items():
        rows = features[labels == label]
        pairs = [
            1 - torch.cosine_similarity(rows[i], rows[j], dim=0)
            for i in range(len(rows))
            for j in range(len(rows))
            if i != j
        ]
        assert value == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-5)


def test_nearly_equal_images_keep_their_small_distance():
    features = torch.tensor([[1.0, 0.0], [1.0, 1e-4]])
    assert class_diversity(features, torch.zeros(2))[0] == pytest.approx(0.5e-8, rel=1e-3)


def test_lengths_that_differ_are_named():
    with pytest.raises(ValueError, match="features holds 2 rows for 3 labels"):
        class_diversity(torch.ones(2, 4), torch.zeros(3))

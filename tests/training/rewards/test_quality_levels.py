"""The number that five levels come to, against the sum by hand, and its gradient in closed form."""

import numpy as np
import pytest
import torch

from ubgen_pipeline.mini.judges import QUALITY_LEVELS
from ubgen_training.rewards.quality_levels import quality_score


def test_a_sure_rating_is_its_level_and_an_even_one_lies_in_the_middle():
    assert QUALITY_LEVELS == ("bad", "poor", "fair", "good", "excellent")
    sure = torch.eye(5) * 100
    assert quality_score(sure).tolist() == pytest.approx([1, 2, 3, 4, 5])
    assert quality_score(torch.full((1, 5), 7.0)).item() == pytest.approx(3)


def test_the_score_is_the_expected_level_whatever_is_added_to_all_logits():
    logits = np.random.default_rng(0).normal(scale=3, size=(4, 5))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = probabilities @ [1, 2, 3, 4, 5]
    for shift in (0.0, 40.0):
        found = quality_score(torch.from_numpy(logits) + shift)
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_its_gradient_is_each_levels_share_times_its_distance_from_the_score():
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    score = quality_score(logits)
    (gradient,) = torch.autograd.grad(score.sum(), logits)
    distance = torch.arange(1, 6, dtype=torch.float64) - score.detach()[:, None]
    torch.testing.assert_close(gradient, logits.detach().softmax(dim=-1) * distance)

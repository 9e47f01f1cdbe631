"""The quality score against Eq. 10 and 11, and the reward made of it."""

import math

import pytest
import torch

from ubgen_training.rewards.quality import QualityReward, load_quality_reward
from ubgen_training.rewards.quality_levels import quality_score


def test_score_is_the_expected_level():
    logits = [0.3, -1.0, 2.0, 0.5, 1.0]
    weights = [math.exp(logit) for logit in logits]
    expected = sum(i * w for i, w in enumerate(weights, start=1)) / sum(weights)
    assert quality_score(torch.tensor([logits])).item() == pytest.approx(expected, rel=1e-5)


def test_score_reaches_from_one_to_five():
    certain = torch.eye(5) * 100
    assert torch.allclose(quality_score(certain), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))


def test_reward_is_a_fifth_of_the_score_and_has_gradient():
    torch.manual_seed(0)
    scorer = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 5))
    reward, images = QualityReward(scorer, image_size=16), torch.rand(2, 3, 16, 16, requires_grad=True)
    values = reward(images, ["a", "b"], torch.tensor([0, 1]))
    assert torch.allclose(values, quality_score(scorer(images)) / 5)
    (gradient,) = torch.autograd.grad(values.sum(), images)
    assert gradient.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in scorer.parameters())


def test_images_are_resized_to_the_scorers_size():
    sizes = []
    reward = QualityReward(lambda images: sizes.append(images.shape[-2:]) or torch.zeros(len(images), 5), 16)
    reward(torch.rand(1, 3, 64, 48), ["a"], torch.tensor([0]))
    assert sizes == [(16, 16)]


def test_unknown_scorer_is_named():
    with pytest.raises(ValueError, match="quality_model 'best' cannot be loaded"):
        load_quality_reward("best")

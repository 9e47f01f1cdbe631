"""The clipped objective against plain numpy, and the sign of the gradient."""

import numpy as np
import pytest
import torch

from ubgen_training.rollouts.policy_loss import policy_loss

CLIP = 0.2


def _reference(log_probs, old, advantages, kl, kl_weight):
    losses = []
    for new, before, advantage in zip(log_probs, old, advantages):
        ratio = np.exp(new - before)
        losses.append(-min(ratio * advantage, min(max(ratio, 1 - CLIP), 1 + CLIP) * advantage))
    return np.mean(losses) + kl_weight * np.mean(kl)


def test_loss_is_the_plain_formula():
    generator = np.random.default_rng(0)
    log_probs, old, advantages, kl = generator.normal(scale=0.3, size=(4, 64))
    report = policy_loss(
        *(torch.tensor(values) for values in (log_probs, old, advantages)),
        clip_range=CLIP,
        kl=torch.tensor(kl),
        kl_weight=0.7,
    )
    assert report.loss.item() == pytest.approx(_reference(log_probs, old, advantages, kl, 0.7))
    weighed = policy_loss(
        *(torch.tensor(values) for values in (log_probs, old, advantages)),
        clip_range=CLIP,
        weights=torch.arange(64.0).double(),
    )
    single = [
        number * _reference(log_probs[i : i + 1], old[i : i + 1], advantages[i : i + 1], [0.0], 0.0)
        for i, number in enumerate(range(64))
    ]
    assert weighed.loss.item() == pytest.approx(np.mean(single))
    np.testing.assert_allclose(report.ratio, np.exp(log_probs - old))
    outside = np.where(advantages > 0, report.ratio > 1 + CLIP, report.ratio < 1 - CLIP)
    assert np.array_equal(report.clipped, outside) and outside.any()


@pytest.mark.parametrize(
    "log_ratio, advantage, gradient",
    [
        (0.0, 1.5, -1.5),  # a good step becomes likelier
        (0.0, -1.5, 1.5),  # a bad one less likely
        (1.0, 1.5, 0.0),  # likely enough already
        (-1.0, -1.5, 0.0),
        (1.0, -1.5, 1.5 * np.e),  # a bad step that became likelier is always pushed back
        (-1.0, 1.5, -1.5 / np.e),
    ],
)
def test_gradient_of_one_pair(log_ratio, advantage, gradient):
    log_probs = torch.tensor([log_ratio - 3.0], dtype=torch.float64, requires_grad=True)
    old, advantages = torch.tensor([-3.0]).double(), torch.tensor([advantage]).double()
    policy_loss(log_probs, old, advantages, clip_range=CLIP).loss.backward()
    assert log_probs.grad.item() == pytest.approx(gradient)


def test_equal_log_probabilities_give_a_ratio_of_exactly_one():
    log_probs = torch.randn(5, generator=torch.Generator().manual_seed(0))
    report = policy_loss(log_probs, log_probs, torch.ones(5), clip_range=CLIP)
    assert torch.equal(report.ratio, torch.ones(5)) and report.loss.item() == -1.0 and not report.clipped.any()

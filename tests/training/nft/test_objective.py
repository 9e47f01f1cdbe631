"""The objectives against plain numpy, written from the paper's formulas, and the direction of their gradients."""

import numpy as np
import pytest
import torch

from ubgen_training.nft.objective import (
    matching_log_probability,
    mixed_predictions,
    nft_loss,
    optimality,
    weighed_error,
)


def arrays(count):
    generator = np.random.default_rng(0)
    return generator.normal(size=(count, 3, 2, 4, 4))


def test_the_loss_is_the_plain_formula():
    new, old, clean, noise = arrays(4)
    beta, sigma, r = 0.7, 0.6, np.array([0.0, 0.3, 1.0])
    noisy = (1 - sigma) * clean + sigma * noise
    expected = np.zeros(3)
    for row in range(3):
        for share, mixed in (
            (r[row], (1 - beta) * old[row] + beta * new[row]),
            (1 - r[row], (1 + beta) * old[row] - beta * new[row]),
        ):
            difference = noisy[row] - sigma * mixed - clean[row]
            expected[row] += share * np.mean(difference**2) / np.mean(np.abs(difference))
    positive, negative = (
        torch.tensor(noisy) - sigma * mixed for mixed in mixed_predictions(torch.tensor(new), torch.tensor(old), beta)
    )
    found = nft_loss(positive, negative, torch.tensor(clean), torch.tensor(r))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_advantages_become_probabilities():
    found = optimality(torch.tensor([-9.0, -5.0, 0.0, 2.5, 5.0, 9.0]), largest=5.0)
    assert found.tolist() == pytest.approx([0, 0, 0.5, 0.75, 1, 1])


@pytest.mark.parametrize("good, direction", [(1.0, 1), (0.0, -1)])
def test_a_good_sample_is_approached_and_a_bad_one_left(good, direction):
    """From the old prediction on, a step down the loss brings the implied sample nearer, or takes it farther."""
    clean, old = (torch.tensor(values) for values in arrays(2))
    new = old.clone().requires_grad_(True)
    # the implied sample is the prediction itself
    loss = nft_loss(*mixed_predictions(new, old, 1.0), clean, torch.full((3,), good)).sum()
    (gradient,) = torch.autograd.grad(loss, new)
    moved = (old - 1e-3 * gradient - clean).square().sum() - (old - clean).square().sum()
    assert -direction * moved > 0


def test_a_sample_that_is_neither_moves_nothing():
    clean, old = (torch.tensor(values) for values in arrays(2))
    new = old.clone().requires_grad_(True)
    loss = nft_loss(*mixed_predictions(new, old, 0.5), clean, torch.full((3,), 0.5)).sum()
    assert torch.autograd.grad(loss, new)[0].abs().max() < 1e-12


def test_the_weight_is_a_constant():
    (value,) = (torch.tensor(values) for values in arrays(1))
    value.requires_grad_(True)
    (gradient,) = torch.autograd.grad(weighed_error(value, torch.zeros_like(value)).sum(), value)
    size = value.detach().abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(gradient, 2 * value.detach() / value[0].numel() / size)
    # no error divides by nothing
    assert weighed_error(torch.zeros(1, 2), torch.zeros(1, 2)).item() == 0


def test_a_matching_log_probability_is_minus_the_squared_error():
    prediction, target = arrays(2)
    found = matching_log_probability(torch.tensor(prediction), torch.tensor(target))
    np.testing.assert_allclose(found, -((prediction - target) ** 2).mean(axis=(1, 2, 3)), rtol=1e-5)

"""Even-K steps: spacing, offsets, one draw per batch, and the gradient they leave against full autograd on a toy."""

from itertools import pairwise

import pytest
import torch

from ubgen_training.gradient_steps import even_k, gradient_strategy


def test_even_k_is_evenly_spaced_and_reaches_every_offset():
    offsets = set()
    for seed in range(200):
        steps = sorted(even_k(50, 5, torch.Generator().manual_seed(seed)))
        assert len(steps) == 5
        assert [b - a for a, b in pairwise(steps)] == [10] * 4
        offsets.add(steps[0])
    assert offsets == set(range(10))


def test_even_k_stays_in_range_when_the_steps_do_not_divide():
    for seed in range(50):
        assert max(even_k(20, 3, torch.Generator().manual_seed(seed))) < 20


def test_even_k_of_all_steps_is_all_steps():
    assert even_k(4, 4, torch.Generator()) == {0, 1, 2, 3}


def test_even_k_draws_once_from_the_generator():
    used, expected = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    even_k(50, 5, used)
    torch.randint(10, (), generator=expected)
    assert torch.equal(used.get_state(), expected.get_state())


@pytest.mark.parametrize("count", [0, -1, 21])
def test_even_k_names_a_count_that_does_not_fit(count):
    with pytest.raises(ValueError, match=rf"num_gradient_steps is {count}.*num_inference_steps = 20"):
        even_k(20, count, torch.Generator())


def test_unknown_strategy_is_named():
    with pytest.raises(ValueError, match="gradient_strategy is 'every_k'"):
        gradient_strategy("every_k")


class _EulerToy:
    """x <- x - 0.1 prediction: a scheduler whose gradient can be written down."""

    init_noise_sigma = 1.0

    def __init__(self, num_steps):
        self.timesteps = torch.arange(num_steps)

    def scale_model_input(self, sample, timestep):
        return sample

    def step(self, prediction, timestep, sample, return_dict=False):
        return (sample - 0.1 * prediction,)


def test_gradient_through_chosen_steps_matches_the_closed_form():
    """With denoiser w x, d x_T / d w follows x' (1 - 0.1 w) - 0.1 x at gradient steps and x' elsewhere."""
    from ubgen_pipeline.latent_denoising import denoising_steps

    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    start = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64)
    chosen = even_k(12, 3, torch.Generator().manual_seed(1))
    for step in denoising_steps(
        lambda latents, timestep, prompt: weight * latents,
        _EulerToy(12),
        start,
        torch.zeros(1, 1, 1, dtype=torch.float64),
        gradient_steps=chosen,
    ):
        latents = step.latents
    (gradient,) = torch.autograd.grad(latents.sum(), weight)
    value, tangent = 2.0, 0.0
    for index in range(12):
        tangent = tangent * (1 - 0.1 * 0.7) - 0.1 * value if index in chosen else tangent
        value *= 1 - 0.1 * 0.7
    assert gradient.item() == pytest.approx(tangent, rel=1e-12)
    assert tangent != 0

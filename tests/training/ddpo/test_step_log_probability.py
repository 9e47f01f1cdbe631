"""Step Gaussians against diffusers' own steps and torch.distributions."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch.distributions import Independent, Normal, kl_divergence

from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_training.ddpo.step_log_probability import (
    gaussian_kl,
    log_probability,
    normalised_log_ratio,
    step_coefficients,
)

SHAPE = (2, 3, 4)
SEEDS = [4, 9, 2]
STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}


def _scheduler(kind, num_steps=7, **settings):
    if kind is DDIMScheduler:
        settings = {"set_alpha_to_one": False} | settings
    scheduler = kind(**(STABLE_DIFFUSION | settings))
    scheduler.set_timesteps(num_steps)
    return scheduler


def _step_noise():
    """What the scheduler draws from fresh generators of these seeds."""
    return torch.stack([torch.randn(SHAPE, generator=g, dtype=torch.float64) for g in step_generators(SEEDS)])


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "kind, eta, settings",
    [
        (DDPMScheduler, 0.0, {}),
        (DDPMScheduler, 0.0, {"variance_type": "fixed_small_log"}),
        (DDPMScheduler, 0.0, {"variance_type": "fixed_large"}),
        (DDPMScheduler, 0.0, {"variance_type": None}),
        (DDPMScheduler, 0.0, {"steps_offset": 0}),
        (DDPMScheduler, 0.0, {"timestep_spacing": "trailing"}),
        (DDIMScheduler, 1.0, {}),
        (DDIMScheduler, 0.4, {"set_alpha_to_one": True, "steps_offset": 0}),
        (DDIMScheduler, 0.4, {"timestep_spacing": "trailing"}),
    ],
)
def test_every_step_is_diffusers_step(kind, eta, settings, prediction_type):
    """mean + deviation * noise is where the scheduler's own step lands with the same noise."""
    scheduler = _scheduler(kind, prediction_type=prediction_type, **settings)
    coefficients = step_coefficients(scheduler, eta)
    latents, prediction = draw_latents([1, 2, 3], SHAPE).double(), draw_latents([5, 6, 7], SHAPE).double()
    arguments = {"eta": eta} if kind is DDIMScheduler else {}
    for index, timestep in enumerate(scheduler.timesteps):
        expected = scheduler.step(prediction, timestep, latents, generator=step_generators(SEEDS), **arguments)[0]
        mean = coefficients.step_mean(torch.full((3,), index), latents, prediction)
        # diffusers keeps its schedule in float32
        torch.testing.assert_close(
            mean + coefficients.deviation[index] * _step_noise(), expected, rtol=2e-4, atol=2e-4
        )


def test_positions_differ_within_a_batch():
    coefficients = step_coefficients(_scheduler(DDPMScheduler))
    latents, prediction = draw_latents([1, 2], SHAPE), draw_latents([5, 6], SHAPE)
    both = coefficients.step_mean(torch.tensor([0, 4]), latents, prediction)
    for row, index in enumerate((0, 4)):
        alone = coefficients.step_mean(torch.tensor([index]), latents[row : row + 1], prediction[row : row + 1])
        assert torch.equal(both[row : row + 1], alone)
    assert not torch.equal(both[1:], coefficients.step_mean(torch.tensor([0]), latents[1:], prediction[1:]))


def test_steps_without_noise_are_left_out():
    assert step_coefficients(_scheduler(DDPMScheduler)).stochastic_steps == list(range(6))
    assert step_coefficients(_scheduler(DDPMScheduler, variance_type="fixed_large")).stochastic_steps == list(range(7))
    # leaving timestep 0, diffusers adds no noise whatever the variance
    at_zero = _scheduler(DDPMScheduler, variance_type="fixed_large", steps_offset=0)
    assert step_coefficients(at_zero).stochastic_steps == list(range(6))
    assert step_coefficients(_scheduler(DDIMScheduler, set_alpha_to_one=True), 0.5).stochastic_steps == list(range(6))
    # without alpha set to one, DDIM's last step keeps a little noise
    assert step_coefficients(_scheduler(DDIMScheduler), 0.5).stochastic_steps == list(range(7))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_log_probability_and_kl_are_those_of_torch_distributions(reduction):
    latents, mean, other = (draw_latents(seeds, SHAPE).double() for seeds in ([1, 2], [3, 4], [5, 6]))
    deviation = torch.tensor([0.3, 1.7], dtype=torch.float64)
    scale = deviation[:, None, None, None].expand_as(mean)
    own, reference = (Independent(Normal(centre, scale), 3) for centre in (mean, other))
    share = 1 if reduction == "sum" else 1 / mean[0].numel()
    torch.testing.assert_close(log_probability(latents, mean, deviation, reduction), share * own.log_prob(latents))
    torch.testing.assert_close(gaussian_kl(mean, other, deviation, reduction), share * kl_divergence(own, reference))
    assert torch.equal(gaussian_kl(mean, mean, deviation, reduction), torch.zeros(2, dtype=torch.float64))


def test_gradient_goes_to_the_prediction_and_not_to_the_sample():
    """d log p / d mean = (x - mean) / s^2; moving the mean to the sample makes it likelier."""
    latents = draw_latents([1], SHAPE).double().requires_grad_(True)
    mean = draw_latents([2], SHAPE).double().requires_grad_(True)
    deviation = torch.tensor([0.5], dtype=torch.float64)
    log_probability(latents, mean, deviation, "sum").sum().backward()
    torch.testing.assert_close(mean.grad, (latents - mean).detach() / 0.25)
    assert latents.grad is None


@pytest.mark.parametrize(
    "scheduler, eta, named",
    [
        (DPMSolverMultistepScheduler, 0.0, "DPMSolverMultistepScheduler"),
        (lambda: _scheduler(DDIMScheduler), 0.0, "eta is 0.0"),
        (lambda: _scheduler(DDIMScheduler), 1.5, "eta is 1.5"),
        (lambda: _scheduler(DDPMScheduler, clip_sample=True), 0.0, "clip_sample"),
        (lambda: _scheduler(DDPMScheduler, variance_type="learned_range"), 0.0, "learned_range"),
    ],
)
def test_steps_without_a_density_are_refused(scheduler, eta, named):
    with pytest.raises(ValueError, match=named):
        step_coefficients(scheduler(), eta)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_normalised_log_ratios_are_those_of_the_paper(reduction):
    """Of torch's Gaussians: the log-ratio without its expectation, times the deviation (GRPO-Guard)."""
    old, moved = draw_latents([1, 2, 3], SHAPE).double(), draw_latents([5, 6, 7], SHAPE).double()
    mean, deviation = (old + 0.3 * moved).requires_grad_(), torch.tensor([0.2, 0.5, 1.5]).double()
    wide = deviation[:, None, None, None]
    arrived = old + wide * _step_noise()
    elements = Normal(mean, wide).log_prob(arrived) - Normal(old, wide).log_prob(arrived)
    elements = (elements + (mean - old) ** 2 / (2 * wide**2)) * wide
    expected = getattr(elements.flatten(1), reduction)(1)
    found = normalised_log_ratio(arrived, mean, old, deviation, reduction)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(value.sum(), mean, retain_graph=True)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert not normalised_log_ratio(arrived, old, old, deviation, reduction).any()


def test_normalised_log_ratios_have_one_mean_and_spread_at_every_step():
    """A mean that moves by as much gives ratios as far from 1, however much noise a step draws."""
    noise = torch.randn(20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    moments = []
    for size in (0.05, 2.0):
        deviation = torch.full((20_000,), size).double()
        arrived, old = size * noise, torch.zeros_like(noise)
        ratios = normalised_log_ratio(arrived, old + 0.1, old, deviation)
        plain = log_probability(arrived, old + 0.1, deviation) - log_probability(arrived, old, deviation)
        moments.append((ratios.mean().item(), ratios.std().item(), plain.std().item()))
    assert moments[0][:2] == pytest.approx(moments[1][:2]) and abs(moments[0][0]) < 2e-3
    assert moments[0][2] > 30 * moments[1][2]

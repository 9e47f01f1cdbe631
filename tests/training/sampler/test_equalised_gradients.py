"""Weights of steps in the final latents against their closed forms, and gradients divided by them."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_training.sampler.equalised_gradients import (
    ScaledGradients,
    equalising_factors,
    mean_weight,
    scaled_gradient,
    step_weights,
)

NUM_STEPS = 5


def ready(scheduler):
    scheduler.set_timesteps(NUM_STEPS)
    return scheduler


def ddim_weights(scheduler):
    """x' = a x + b noise at every step: the weight is b times the later steps' a (Song et al. 2021, Eq. 12)."""
    signals = [float(scheduler.alphas_cumprod[int(timestep)]) for timestep in scheduler.timesteps]
    signals.append(float(scheduler.final_alpha_cumprod))
    scales = [(signals[i + 1] / signals[i]) ** 0.5 for i in range(NUM_STEPS)]
    weights = [(1 - signals[i + 1]) ** 0.5 - (1 - signals[i]) ** 0.5 * scales[i] for i in range(NUM_STEPS)]
    for i in range(NUM_STEPS):
        for later in scales[i + 1 :]:
            weights[i] *= later
    return weights


def test_weights_of_ddim_are_those_of_its_closed_form():
    scheduler = ready(DDIMScheduler(clip_sample=False))
    weights = step_weights(scheduler, scheduler.timesteps)
    assert weights == pytest.approx(ddim_weights(scheduler), rel=1e-4)
    # they differ, or there would be nothing to equalise
    assert max(map(abs, weights)) > 2 * min(map(abs, weights))


@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, EulerDiscreteScheduler])
def test_weights_of_euler_steps_are_the_differences_of_the_levels(kind):
    scheduler = ready(kind())
    expected = (scheduler.sigmas[1:] - scheduler.sigmas[:-1]).tolist()
    assert step_weights(scheduler, scheduler.timesteps) == pytest.approx(expected, rel=1e-4)


def test_a_jumps_weight_ends_the_list():
    scheduler = ready(FlowMatchEulerDiscreteScheduler())
    weights = step_weights(scheduler, scheduler.timesteps, stop_at=2)
    sigmas = scheduler.sigmas.tolist()
    assert weights == pytest.approx([sigmas[1] - sigmas[0], sigmas[2] - sigmas[1], -sigmas[2]], rel=1e-4)


def test_weights_leave_the_scheduler_as_it_was():
    scheduler = ready(DPMSolverMultistepScheduler())
    step_weights(scheduler, scheduler.timesteps)
    assert scheduler.step_index is None
    latents = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    walked = [step.latents for step in denoising_steps(lambda x, *_: x / 2, scheduler, latents, torch.zeros(1))]
    fresh = ready(DPMSolverMultistepScheduler())
    again = [step.latents for step in denoising_steps(lambda x, *_: x / 2, fresh, latents, torch.zeros(1))]
    assert all(torch.equal(a, b) for a, b in zip(walked, again, strict=True))


@pytest.mark.parametrize("kind", [FlowMatchHeunDiscreteScheduler, UniPCMultistepScheduler, PNDMScheduler])
def test_weights_are_found_after_a_rollout_with_gradient(kind):
    """Heun's scheduler keeps the latents that it last stepped, and with them the rollout's graph."""
    scheduler = ready(kind())
    expected = step_weights(scheduler, scheduler.timesteps)
    slope = torch.ones((), requires_grad=True)
    steps = denoising_steps(lambda x, *_: slope * x / 2, scheduler, torch.ones(1, 1, 2, 2), torch.zeros(1))
    assert list(steps)[-1].latents.requires_grad
    assert step_weights(ready(scheduler), scheduler.timesteps) == expected and any(expected)


@pytest.mark.parametrize("scheduler", [DDIMScheduler(clip_sample=False), DPMSolverMultistepScheduler()])
def test_equalised_predictions_have_one_weight(scheduler):
    weights = step_weights(ready(scheduler), scheduler.timesteps)
    offsets = torch.zeros(NUM_STEPS, dtype=torch.float64, requires_grad=True)
    calls = iter(offsets)
    denoiser = ScaledGradients(
        lambda latents, *_: next(calls) + torch.zeros_like(latents),
        equalising_factors(weights, mean_weight(weights)),
    )
    latents = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for step in denoising_steps(denoiser, ready(scheduler), latents, torch.zeros(1)):
        latents = step.latents
    (gradient,) = torch.autograd.grad(latents.sum(), offsets)
    mean = sum(map(abs, weights)) / NUM_STEPS
    assert gradient.abs().tolist() == pytest.approx([mean] * NUM_STEPS, rel=1e-4)
    # each keeps its direction
    assert [value > 0 for value in gradient.tolist()] == [weight > 0 for weight in weights]


def test_a_prediction_without_weight_keeps_its_gradient():
    assert equalising_factors([0.0, -0.5, 0.25], 0.5) == [1.0, 1.0, 2.0]


def test_a_scaled_gradient_leaves_the_value_alone():
    value = torch.tensor([1e8, 0.1], requires_grad=True)
    scaled = scaled_gradient(value, 3.0)
    assert torch.equal(scaled, value)
    assert torch.autograd.grad(scaled.sum(), value)[0].tolist() == [3.0, 3.0]

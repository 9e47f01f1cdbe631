"""Stochastic steps of flows: against their formulas, Euler, diffusers' own, and data whose flow is known exactly."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.distributions import Independent, Normal

from support.family_models import FAMILY_NAMES, own_pipeline, tiny_pipeline
from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.scheduler_noise import is_flow_scheduler
from ubgen_training.ddpo.flow_dynamics import FLOW_DYNAMICS, StochasticFlowScheduler, flow_coefficients
from ubgen_training.ddpo.policy_sampler import PolicySampler, Transitions
from ubgen_training.ddpo.step_log_probability import log_probability
from ubgen_training.lora.adapter import LoraSettings
from ubgen_training.sampler.gradient_steps import GradientSteps
from ubgen_training.sampler.sampler_model import SamplerModel, SamplingSettings

SHAPE = (3, 4, 5)
LABELS, SEEDS = torch.tensor([1, 0]), [5, 6]


def scheduler_of(dynamics, num_steps=6, **settings):
    scheduler = StochasticFlowScheduler.like(FlowMatchEulerDiscreteScheduler(shift=3.0, **settings), dynamics)
    scheduler.set_timesteps(num_steps)
    return scheduler


def by_the_papers(dynamics, eta, x, v, s, following, second):
    """Mean and deviation of one step, from the score and the clean latents that the velocity implies."""
    clean, change = x - s * v, following - s
    noise = clean + v
    if dynamics == "cps":
        part = math.sin(eta * math.pi / 2)
        return (1 - following) * clean + math.sqrt(following**2 - (following * part) ** 2) * noise, following * part
    score = -(x - (1 - s) * clean) / s**2
    width = eta if dynamics == "dance_sde" else eta * math.sqrt(s / (1 - (second if s == 1 else s)))
    return x + (v - width**2 / 2 * score) * change, width * math.sqrt(-change)


@pytest.mark.parametrize("dynamics", FLOW_DYNAMICS)
def test_steps_are_those_of_the_papers_and_their_log_probability_is_a_gaussians(dynamics):
    scheduler, eta = scheduler_of(dynamics), 0.6
    sigmas, coefficients = scheduler.sigmas.double(), scheduler.coefficients(eta)
    x, v = draw_latents([1, 2], SHAPE).double(), draw_latents([3, 4], SHAPE).double()
    for index in range(5):
        mean, deviation = by_the_papers(dynamics, eta, x, v, *sigmas[index : index + 2].tolist(), sigmas[1].item())
        row = torch.full((2,), index)
        torch.testing.assert_close(coefficients.step_mean(row, x, v), mean)
        assert coefficients.deviation[index].item() == pytest.approx(deviation)
        noise = torch.stack([torch.randn(SHAPE, generator=own) for own in step_generators(SEEDS)])
        scheduler._step_index = index
        (arrived,) = scheduler.step(v.float(), None, x.float(), generator=step_generators(SEEDS), eta=eta)
        torch.testing.assert_close(arrived, (mean + deviation * noise).float(), rtol=1e-5, atol=1e-5)
        found = log_probability(arrived.double(), mean, torch.full((2,), deviation), "sum")
        torch.testing.assert_close(found, Independent(Normal(mean, deviation), 3).log_prob(arrived.double()))
    # the last ends at the image, without noise
    assert coefficients.stochastic_steps == list(range(5))


@pytest.mark.parametrize("dynamics", FLOW_DYNAMICS)
def test_steps_outside_of_a_window_are_eulers(dynamics):
    scheduler, euler = scheduler_of(dynamics), FlowMatchEulerDiscreteScheduler(shift=3.0)
    euler.set_timesteps(6)
    whole = scheduler.coefficients(0.6)
    scheduler.window = range(2, 4)
    inside = scheduler.coefficients(0.6)
    assert inside.stochastic_steps == [2, 3]
    for name in ("latent", "prediction", "deviation"):
        assert torch.equal(getattr(inside, name)[2:4], getattr(whole, name)[2:4])
    x, v = draw_latents([1, 2], SHAPE), draw_latents([3, 4], SHAPE)
    for index, timestep in enumerate(euler.timesteps):
        arrived = scheduler.step(v, timestep, x, generator=step_generators(SEEDS), eta=0.6)[0]
        expected = euler.step(v, timestep, x, return_dict=False)[0]
        assert torch.equal(arrived, expected) == (index not in (2, 3))


def test_images_are_drawn_without_the_window_of_the_rollouts():
    """Evaluations compare those of one seed: they must not change because the window moves."""
    pipeline = own_pipeline("sd3", tiny_pipeline("sd3"))
    pipeline.scheduler = StochasticFlowScheduler.like(pipeline.scheduler, "flow_sde")
    policy = PolicySampler(pipeline, ["a", "b"], LoraSettings(2), SamplingSettings(3, 3.0, 32, 32, eta=0.5), seed=1)
    with torch.no_grad():
        whole, images, rollouts = policy(LABELS, SEEDS), [], []
        for window in (range(1), range(1, 2)):
            policy.set_window(window)
            images.append(policy(LABELS, SEEDS))
            rollouts.append(policy(LABELS, SEEDS, record=True))
            # it is still the rollouts'
            assert pipeline.scheduler.window == window and policy.coefficients.stochastic_steps == list(window)
    assert torch.equal(images[0], whole) and torch.equal(images[1], whole)
    assert not torch.equal(rollouts[0].images, rollouts[1].images)


@pytest.mark.parametrize("dynamics", FLOW_DYNAMICS)
def test_without_noise_every_step_is_eulers_to_the_bit(dynamics):
    ours, euler = scheduler_of(dynamics), FlowMatchEulerDiscreteScheduler(shift=3.0)
    euler.set_timesteps(6)
    x = y = draw_latents([1, 2], SHAPE)
    for timestep in euler.timesteps:
        v = torch.tanh(3 * x)
        x = ours.step(v, timestep, x, generator=step_generators(SEEDS), eta=0.0)[0]
        y = euler.step(v, timestep, y, return_dict=False)[0]
        assert torch.equal(x, y)
    assert ours.coefficients(0.0).stochastic_steps == []
    # and so is the step that the coefficients make
    coefficients, sigmas = flow_coefficients(ours.sigmas, 0.0, dynamics), ours.sigmas.double()
    torch.testing.assert_close(coefficients.latent, torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(coefficients.prediction, sigmas.diff())


def test_a_models_own_stochastic_steps_are_left_out():
    """Outside of a window they would add noise of no seed."""
    scheduler, euler = scheduler_of("cps", stochastic_sampling=True), FlowMatchEulerDiscreteScheduler(shift=3.0)
    euler.set_timesteps(6)
    scheduler.window = range(1, 2)
    x, v = draw_latents([1, 2], SHAPE), draw_latents([3, 4], SHAPE)
    first = scheduler.timesteps[0]
    assert torch.equal(scheduler.step(v, first, x, eta=0.5)[0], euler.step(v, first, x, return_dict=False)[0])


def test_cps_with_all_noise_drawn_anew_is_diffusers_stochastic_sampling():
    coefficients = scheduler_of("cps").coefficients(1.0)
    stock = FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True)
    stock.set_timesteps(6)
    x, v = draw_latents([1, 2], SHAPE), draw_latents([3, 4], SHAPE)
    for index, timestep in enumerate(stock.timesteps[:-1]):
        torch.manual_seed(0)
        expected = stock.step(v, timestep, x, return_dict=False)[0]
        torch.manual_seed(0)
        noise = torch.randn_like(x)
        mean = coefficients.step_mean(torch.full((2,), index), x, v)
        torch.testing.assert_close(mean + coefficients.deviation[index].float() * noise, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dynamics, eta", [("flow_sde", 0.7), ("dance_sde", 0.5)])
def test_the_noise_leaves_the_distribution_as_it_is(dynamics, eta):
    """Of Gaussian data with deviation c the velocity is known; whatever the noise, the samples have that deviation."""
    scheduler, c = scheduler_of(dynamics, 300), 0.5
    torch.manual_seed(1)
    x = torch.randn(40_000, 1, 1, 1)
    for timestep, s in zip(scheduler.timesteps, scheduler.sigmas.tolist()):
        velocity = x * (s - (1 - s) * c**2) / ((1 - s) ** 2 * c**2 + s**2)
        x = scheduler.step(velocity, timestep, x, eta=eta)[0]
    assert x.std().item() == pytest.approx(c, rel=0.03) and abs(x.mean().item()) < 0.02


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_judging_a_rollouts_steps_gives_its_numbers_to_the_last_bit(name):
    pipeline = own_pipeline(name, tiny_pipeline(name))
    own = pipeline.scheduler
    if not is_flow_scheduler(own):
        with pytest.raises(ValueError, match="whose steps have no log-probability"):
            PolicySampler(pipeline, ["a", "b"], LoraSettings(2), SamplingSettings(3, 3.0, 32, 32))
        return
    dynamics = FLOW_DYNAMICS[FAMILY_NAMES.index(name) % 3]
    pipeline.scheduler = StochasticFlowScheduler.like(own, dynamics)
    policy = PolicySampler(pipeline, ["a", "b"], LoraSettings(2), SamplingSettings(3, 3.0, 32, 32, eta=0.5), seed=1)
    with torch.no_grad():
        drawn = policy(LABELS, SEEDS, record=True, with_means=True)
        images = policy(LABELS, SEEDS, GradientSteps(frozenset()))
    assert torch.equal(drawn.images, images)
    sigmas = pipeline.scheduler.sigmas
    torch.testing.assert_close(policy.level_falls(torch.tensor([1, 0])), (sigmas[:2] - sigmas[1:3]).flip(0))
    assert drawn.log_probs[:, :-1].all() and not drawn.log_probs[:, -1].any()
    for position in range(2):
        step = Transitions(torch.full((2,), position), drawn.latents[:, position], drawn.latents[:, position + 1])
        log_probs, kl, excess = policy(LABELS, transitions=step, with_reference=True)
        # the ratio of the first inner step is 1
        assert torch.equal(log_probs.detach(), drawn.log_probs[:, position]) and log_probs.requires_grad
        # B of the LoRA is still zero
        assert not kl.any() and not excess.any()
        ratios, *_ = policy(LABELS, transitions=replace(step, old_means=drawn.means[:, position]))
        assert not ratios.any() and ratios.requires_grad
    # without noise the sampler draws what the model draws along Euler's steps
    policy.sampling, quiet = SamplingSettings(3, 3.0, 32, 32), own_pipeline(name, tiny_pipeline(name))
    if isinstance(own, FlowMatchEulerDiscreteScheduler):
        with torch.no_grad():
            still = policy(LABELS, SEEDS, GradientSteps(frozenset()))
            euler = SamplerModel(quiet, ["a", "b"], LoraSettings(2), policy.sampling, seed=1)(LABELS, SEEDS)
        assert torch.equal(still, euler)

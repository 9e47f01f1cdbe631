"""The sampler as a policy: a rollout is what the sampler draws, and judging its steps gives their densities."""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from support.text_features import text_features
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.ddpo.policy_sampler import PolicySampler, Transitions
from ubgen_training.lora.adapter import LoraSettings, adapters_disabled
from ubgen_training.sampler.gradient_steps import GradientSteps
from ubgen_training.sampler.sampler_model import SamplingSettings

NAMES = ["circle", "star", "ring"]
LABELS, SEEDS, NUM_STEPS = torch.tensor([0, 2]), [11, 12], 4


def build(model, log_probability="mean", scheduler="ddpm", eta=0.0):
    settings = SamplingSettings(NUM_STEPS, 2.0, eta=eta)
    policy = PolicySampler(
        load_pipeline(model, scheduler=scheduler),
        NAMES,
        LoraSettings(4),
        settings,
        seed=3,
        log_probability=log_probability,
    )
    torch.manual_seed(0)
    for name, parameter in policy.named_parameters():
        # B starts at zero, where the model is the untrained one
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return policy


@pytest.fixture(scope="module")
def policy(tiny_model):
    return build(tiny_model)


@pytest.fixture(scope="module")
def trajectories(policy):
    with torch.no_grad():
        return policy(LABELS, SEEDS, record=True)


def steps_of(trajectories, position):
    latents = trajectories.latents
    return Transitions(torch.full((2,), position), latents[:, position], latents[:, position + 1])


def test_a_rollout_draws_what_the_sampler_draws(policy, trajectories):
    with torch.no_grad():
        images = policy(LABELS, SEEDS, GradientSteps(frozenset()))
    assert torch.equal(trajectories.images, images)
    assert trajectories.latents.shape[:2] == (2, NUM_STEPS + 1) and trajectories.log_probs.shape == (2, NUM_STEPS)


@pytest.mark.parametrize("position", range(NUM_STEPS - 1))
def test_judging_a_step_gives_the_rollouts_number_to_the_last_bit(policy, trajectories, position):
    log_probs, kl, _ = policy(LABELS, transitions=steps_of(trajectories, position))
    assert kl is None and log_probs.requires_grad
    assert torch.equal(log_probs.detach(), trajectories.log_probs[:, position])


def test_the_last_step_adds_no_noise_and_has_no_density(trajectories):
    assert not trajectories.log_probs[:, -1].any() and trajectories.log_probs[:, :-1].all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("scheduler, eta", [("ddpm", 0.0), ("ddim", 0.7)])
def test_densities_are_torchs_around_diffusers_own_step(tiny_model, reduction, scheduler, eta):
    """Mean and deviation come from two steps of diffusers' scheduler, with a noise and with its opposite."""
    policy = build(tiny_model, reduction, scheduler, eta)
    own = policy.pipeline.scheduler
    with torch.no_grad():
        drawn = policy(LABELS, SEEDS, record=True)
        for position in range(NUM_STEPS - 1):
            step = steps_of(drawn, position)
            log_probs, *_ = policy(LABELS, transitions=step)
            prompts = text_features(policy.pipeline, [NAMES[label] for label in LABELS])
            nothing = text_features(policy.pipeline, ["", ""])
            own.set_timesteps(NUM_STEPS)
            timestep = own.timesteps[position]
            without, with_text = (
                policy.pipeline.unet(step.latents, timestep, text).sample for text in (nothing, prompts)
            )
            prediction = without + 2.0 * (with_text - without)
            noise = torch.randn(step.latents.shape, generator=torch.Generator().manual_seed(5))
            up, down = (stepped(own, prediction, timestep, step.latents, sign * noise, eta) for sign in (1, -1))
            mean, deviation = (up + down) / 2, (up - down).abs().sum() / 2 / noise.abs().sum()
            density = Normal(mean, deviation).log_prob(step.next_latents).flatten(1)
            expected = density.mean(dim=1) if reduction == "mean" else density.sum(dim=1)
            torch.testing.assert_close(log_probs, expected, rtol=2e-3, atol=2e-3)


def stepped(scheduler, prediction, timestep, latents, noise, eta):
    """Where diffusers' scheduler goes from the latents with that noise."""
    if eta:
        return scheduler.step(prediction, timestep, latents, eta=eta, variance_noise=noise).prev_sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise)
        return scheduler.step(prediction, timestep, latents).prev_sample


def test_the_distance_to_the_untrained_model_is_that_of_the_two_gaussians(policy, trajectories):
    step = steps_of(trajectories, 1)
    with torch.no_grad():
        _, kl, _ = policy(LABELS, transitions=step, with_reference=True)
        means = []
        for is_trained in (True, False):
            with adapters_disabled(policy.denoiser_network) if not is_trained else torch.no_grad():
                prediction = policy._predict(LABELS, step.index, step.latents)
            means.append(policy.coefficients.step_mean(step.index, step.latents, prediction))
    deviation = policy.coefficients.deviation[1].float()
    trained, untrained = (Independent(Normal(mean, deviation), 3) for mean in means)
    torch.testing.assert_close(kl, kl_divergence(trained, untrained) / means[0][0].numel(), rtol=1e-4, atol=0)
    assert (kl > 0).all()


def test_the_gradient_is_that_of_finite_differences(policy, trajectories):
    step = steps_of(trajectories, 0)
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(4)
    directions = [torch.randn(parameter.shape, generator=generator) for parameter in parameters]

    def total(shift):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions):
                parameter.add_(direction, alpha=shift)
            value = policy(LABELS, transitions=step)[0].double().sum().item()
            for parameter, direction in zip(parameters, directions):
                parameter.sub_(direction, alpha=shift)
        return value

    gradients = torch.autograd.grad(policy(LABELS, transitions=step)[0].sum(), parameters)
    slope = sum((gradient * direction).sum().item() for gradient, direction in zip(gradients, directions))
    assert slope == pytest.approx((total(1e-3) - total(-1e-3)) / 2e-3, rel=2e-2)


def test_a_schedule_without_densities_is_refused(tiny_model):
    with pytest.raises(ValueError, match="PNDMScheduler, whose steps have no log-probability"):
        build(tiny_model, scheduler="pndm")

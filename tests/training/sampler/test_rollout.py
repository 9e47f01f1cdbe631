"""One rollout: its latents are those of plain calls of the scheduler, and what is kept of it are its own."""

import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler

from support.text_features import text_features
from ubgen_pipeline.inference.prompt_cache import PromptCache
from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.sampler.gradient_steps import GradientSteps
from ubgen_training.sampler.replays import DirectAlign, Leap
from ubgen_training.sampler.rollout import Rollout

NUM_STEPS, SEEDS, PROMPTS = 4, [5, 6], ["circle", "star"]


@pytest.fixture(scope="module")
def pipeline(random_mini_model):
    family = load_pipeline(random_mini_model)
    family.scheduler = DDIMScheduler.from_config(family.scheduler.config)
    return family


def rollout_of(pipeline, denoiser=None, eta=1.0):
    cache = PromptCache()
    return Rollout(
        pipeline,
        denoiser or pipeline.predict,
        SEEDS,
        pipeline.batch(cache.rows(pipeline, PROMPTS)),
        pipeline.batch(cache.rows(pipeline, ["", ""], negative=True)),
        guidance_scale=2.0,
        latent_shape=pipeline.latent_shape(),
        num_inference_steps=NUM_STEPS,
        eta=eta,
    )


@torch.no_grad()
def plain_latents(pipeline):
    """Latents before every step, those at the end, and the samples' generators after it."""
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(NUM_STEPS)
    latents, generators = [draw_latents(SEEDS, pipeline.latent_shape())], step_generators(SEEDS)
    prompts, nothing = text_features(pipeline, PROMPTS), text_features(pipeline, ["", ""])
    for timestep in scheduler.timesteps:
        away = pipeline.unet(latents[-1], timestep, nothing).sample
        guided = away + 2 * (pipeline.unet(latents[-1], timestep, prompts).sample - away)
        latents.append(scheduler.step(guided, timestep, latents[-1], eta=1.0, generator=generators).prev_sample)
    return latents, generators


def test_a_rollout_is_the_scheduler_called_step_by_step(pipeline):
    expected, generators = plain_latents(pipeline)
    with torch.no_grad():
        torch.testing.assert_close(rollout_of(pipeline).latents(), expected[-1], rtol=0, atol=1e-4)
        steps = [step.latents for step in rollout_of(pipeline).steps()]
    torch.testing.assert_close(steps, expected[1:], rtol=0, atol=1e-4)
    rollout = rollout_of(pipeline)
    kept = rollout.kept({1, 3})
    assert kept.before.keys() == {1, 3} and not kept.clean.requires_grad
    torch.testing.assert_close([kept.before[1], kept.before[3], kept.clean], [expected[1], expected[3], expected[4]])
    # noise that the run's own steps did not use
    noise = torch.stack([torch.randn(pipeline.latent_shape(), generator=each) for each in generators])
    assert torch.equal(rollout.more_noise(), noise)


@pytest.mark.parametrize(
    ("gradient_steps", "calls_with_gradient"),
    [
        (None, NUM_STEPS),
        (GradientSteps(frozenset({2})), 1),
        (GradientSteps(frozenset({0, 2}), replay=Leap()), 2),
        (GradientSteps(frozenset({1}), replay=DirectAlign(), equalise=True), 1),
    ],
    ids=["all", "one", "leap", "direct_align"],
)
def test_gradient_comes_from_the_chosen_steps_alone(pipeline, gradient_steps, calls_with_gradient):
    scale, calls = torch.ones((), requires_grad=True), []

    def denoiser(latents, timestep, conditioning):
        calls.append(torch.is_grad_enabled())
        return scale * pipeline.predict(latents, timestep, conditioning)

    latents = rollout_of(pipeline, denoiser, eta=0.0).latents(gradient_steps)
    assert sum(calls) == calls_with_gradient
    (gradient,) = torch.autograd.grad(latents.square().sum(), scale)
    assert gradient.abs() > 0


def test_positions_and_schedulers_that_do_not_fit_are_refused(pipeline):
    with pytest.raises(ValueError, match=r"gradient_steps holds \[4\]; the loop has steps 0 to 3"):
        rollout_of(pipeline).kept({1, 4})
    with pytest.raises(ValueError, match=r"gradient_steps holds \[7\]"):
        rollout_of(pipeline).latents(GradientSteps(frozenset({7})))
    usual = pipeline.scheduler
    pipeline.scheduler = EDMEulerScheduler()
    try:
        with pytest.raises(ValueError, match="EDMEulerScheduler"):
            rollout_of(pipeline).kept({1})
    finally:
        pipeline.scheduler = usual

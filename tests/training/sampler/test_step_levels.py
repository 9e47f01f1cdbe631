"""Noise levels of steps: what a model reads, and samples at different steps."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from support.kinds_of_schedulers import KINDS, NUM_STEPS, scheduler_of
from ubgen_pipeline.scheduler_noise import model_input
from ubgen_training.sampler.step_levels import StepLevels


def random_latents(seed):
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_scales_of_what_is_read_are_known_without_a_rollout():
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(NUM_STEPS)
    levels, latents = StepLevels(scheduler, scheduler.timesteps), random_latents(0)
    assert len({float(scale) for scale in levels.scales}) == NUM_STEPS
    for position, timestep in enumerate(scheduler.timesteps):
        torch.testing.assert_close(
            levels.read(latents, position), model_input(scheduler, latents, timestep), rtol=1e-5, atol=0
        )
        latents = scheduler.step(latents / 2, timestep, latents).prev_sample


@pytest.mark.parametrize("kind", KINDS)
def test_samples_may_be_at_different_steps(kind):
    scheduler = scheduler_of(kind)
    levels, positions = StepLevels(scheduler, scheduler.timesteps), torch.tensor([4, 1])
    clean, noise, prediction = (random_latents(seed) for seed in range(3))
    noisy = levels.noised(clean, noise, positions)
    for row, position in enumerate(positions.tolist()):
        one = slice(row, row + 1)
        assert torch.equal(noisy[one], levels.noised(clean[one], noise[one], position))
        for call in (levels.clean, levels.target):
            found, expected = call(noisy, prediction, positions), call(noisy[one], prediction[one], position)
            torch.testing.assert_close(found[one], expected)
        assert torch.equal(levels.read(noisy, positions)[one], levels.read(noisy[one], position))
    # the right prediction implies the clean latents, and those are found again
    right = levels.target(clean, noise, positions)
    torch.testing.assert_close(levels.clean(noisy, right, positions), clean)
    torch.testing.assert_close(levels.without(noisy, noise, positions), clean)

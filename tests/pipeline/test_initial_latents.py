"""Seeds and noise depend on the sample alone."""

import pytest
import torch

from ubgen_pipeline.initial_latents import draw_latents, sample_seed, step_generators

SHAPE = (4, 16, 16)


def test_sample_seed_is_the_same_on_every_machine():
    # a value written down once: Python's own hash() would change it from process to process
    assert sample_seed(7, "circle", 2) == 6218475776290715592


def test_sample_seeds_differ_by_run_class_and_index():
    seeds = {sample_seed(run, key, k) for run in range(5) for key in ("circle", "star", "1/circle") for k in range(50)}
    assert len(seeds) == 5 * 3 * 50
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, "7"])
def test_seed_out_of_range_is_named(seed):
    with pytest.raises(ValueError, match="seed"):
        sample_seed(seed, "circle", 0)
    with pytest.raises(ValueError, match="seeds"):
        draw_latents([seed], SHAPE)


def test_a_row_does_not_depend_on_its_batch():
    seeds = [11, 2**63 - 1, 0, 5]
    together = draw_latents(seeds, SHAPE)
    assert together.shape == (4, *SHAPE) and together.dtype == torch.float32
    for row, seed in zip(together, seeds):
        assert torch.equal(row, draw_latents([seed], SHAPE)[0])
    assert torch.equal(draw_latents(seeds[::-1], SHAPE), together.flip(0))


def test_noise_is_standard_normal_and_rows_are_independent():
    noise = draw_latents(range(200), SHAPE).flatten(1)
    assert abs(noise.mean().item()) < 0.02 and abs(noise.std().item() - 1) < 0.02
    correlation = torch.corrcoef(noise) - torch.eye(200)
    assert correlation.abs().max() < 0.2


def test_step_noise_does_not_repeat_the_initial_noise():
    initial = draw_latents([3], SHAPE)[0]
    step = torch.randn(SHAPE, generator=step_generators([3])[0])
    again = torch.randn(SHAPE, generator=step_generators([3])[0])
    assert torch.equal(step, again)
    assert torch.corrcoef(torch.stack([initial.flatten(), step.flatten()]))[0, 1].abs() < 0.15

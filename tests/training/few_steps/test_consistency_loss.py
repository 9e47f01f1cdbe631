"""Steps, segments and loss of distillation against diffusers' samplers and a Gaussian whose paths are known."""

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler

from ubgen_training.denoising.denoising_loss import PREDICTION_TYPES
from ubgen_training.few_steps.consistency_loss import ddim_jump, pseudo_huber, segment_start, teacher_timesteps

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ALPHAS = DDIMScheduler(**SCHEDULE).alphas_cumprod.double()


@pytest.mark.parametrize("target", PREDICTION_TYPES)
def test_a_jump_is_the_samplers_step(target):
    scheduler = DDIMScheduler(
        **SCHEDULE,
        prediction_type=PREDICTION_TYPES[target],
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
    )
    scheduler.set_timesteps(8)
    noisy, prediction = torch.randn(2, 8, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    starts = scheduler.timesteps
    ends = torch.cat([starts[1:], torch.zeros(1, dtype=torch.long)])
    jumped = ddim_jump(noisy, prediction, starts, ends, ALPHAS, target)
    for index, start in enumerate(starts):
        stepped = scheduler.step(prediction[index], start, noisy[index]).prev_sample
        torch.testing.assert_close(jumped[index], stepped, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ddim_jump(noisy, prediction, starts, starts, ALPHAS, target), noisy)


def test_the_grid_is_that_of_the_samplers():
    lcm = LCMScheduler(**SCHEDULE)
    lcm.set_timesteps(4)
    fifty = teacher_timesteps(1000, 50)
    assert fifty.shape == (51,) and fifty[0] == 0 and fifty[-1] == 999
    assert set(lcm.timesteps.tolist()) <= set(fifty.tolist())
    trailing = DDIMScheduler(**SCHEDULE, timestep_spacing="trailing")
    trailing.set_timesteps(8)
    many = teacher_timesteps(1000, 48)
    steps = torch.arange(1, 49)
    starts = segment_start(steps, 48, 8)
    # a sampler's steps begin where a segment ends, the lowest at the clean end
    assert many[sorted({*starts.tolist(), 48})].tolist() == [0, *reversed(trailing.timesteps.tolist())]
    assert (starts < steps).all() and (steps - starts).max() == 6
    assert segment_start(steps, 48, 1).unique().tolist() == [0]
    assert segment_start(steps, 48, 48).tolist() == (steps - 1).tolist()


@pytest.mark.parametrize("num_segments", [1, 4])
def test_what_jumps_exactly_has_no_loss_in_the_limit(num_segments):
    """Gaussian data of variance s: the exact denoiser is linear and the flow scales by the standard deviation."""
    s = 0.3
    variance = ALPHAS * s + 1 - ALPHAS
    noisy = torch.randn(256, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def exact(noisy, start, end):
        scale = (variance[end] / variance[start]).sqrt()[:, None]
        return noisy * scale

    def teacher(noisy, start, end):
        clean = ALPHAS.sqrt()[start, None] * s / variance[start, None] * noisy
        return ddim_jump(noisy, clean, start, end, ALPHAS, "x0")

    losses = {}
    for num_steps in (12, 48, 192):
        timesteps = teacher_timesteps(1000, num_steps)
        steps = 1 + torch.randint(num_steps, (256,), generator=torch.Generator().manual_seed(1))
        start, middle = timesteps[steps], timesteps[steps - 1]
        end = timesteps[segment_start(steps, num_steps, num_segments)]
        points = noisy * variance[start, None].sqrt()
        nearer = teacher(points, start, middle)
        for name, student in {"exact": exact, "teacher": teacher}.items():
            loss = pseudo_huber(student(points, start, end), student(nearer, middle, end), 1e-4)
            losses[name, num_steps] = loss.mean().item() * num_steps
    # the teacher's error of a step falls faster than the number of steps rises
    assert losses["exact", 192] < 0.4 * losses["exact", 48] < 0.16 * losses["exact", 12] / 0.4
    # one long step of the teacher is not the flow, however fine the path
    assert losses["teacher", 192] > 5 * losses["exact", 192]


def test_pseudo_huber_by_hand():
    values, wanted = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(pseudo_huber(values, wanted, 4.0), torch.tensor([0.5, 0.0]))
    # far from 0 it is the absolute error less the scale
    assert pseudo_huber(torch.tensor([[100.0]]), torch.zeros(1, 1), 0.01).item() == pytest.approx(99.99, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: teacher_timesteps(1000, 0), r"num_teacher_steps is 0; choose one in \[1, 1000\)"),
        (lambda: teacher_timesteps(1000, 1000), "num_teacher_steps is 1000"),
        (lambda: segment_start(torch.tensor([1]), 50, 8), "num_segments is 8; choose a divisor of num_teacher_steps"),
        (lambda: segment_start(torch.tensor([1]), 50, 0), "num_segments is 0"),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises(ValueError, match=message):
        call()

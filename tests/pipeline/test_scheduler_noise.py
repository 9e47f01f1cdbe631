"""Schedulers of both kinds: where noise stands at each timestep, whatever a scheduler was told before."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)

from ubgen_pipeline.scheduler_noise import (
    initial_scale,
    is_flow_scheduler,
    model_input,
    noise_levels,
    noised_latents,
    resolution_shift,
    set_flow_timesteps,
)

FLOW = {
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "lcm": lambda: FlowMatchLCMScheduler(shift=3.0),
    "dpm": lambda: DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "unipc": lambda: UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
}


@pytest.mark.parametrize("begin", [None, 0, 2])
@pytest.mark.parametrize("name", FLOW)
def test_the_level_of_each_timestep_is_the_schedulers_sigma(name, begin):
    """A scheduler that was told where it begins answers every timestep with the noise of that place."""
    scheduler = FLOW[name]()
    scheduler.set_timesteps(5)
    if begin is not None:
        scheduler.set_begin_index(begin)
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas.double()):
        assert noise_levels(scheduler, timestep) == pytest.approx((1 - sigma.item(), sigma.item()), abs=1e-6)
    assert scheduler.begin_index == begin
    clean, noise = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64).unbind()
    noised = noised_latents(scheduler, clean, noise, scheduler.timesteps[3])
    sigma = scheduler.sigmas[3].double()
    torch.testing.assert_close(noised, (1 - sigma) * clean + sigma * noise, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler])
def test_levels_of_exploding_noise_do_not_depend_on_where_it_begins(kind):
    scheduler = kind()
    scheduler.set_timesteps(5)
    for begin in (None, 0, 3):
        if begin is not None:
            scheduler.set_begin_index(begin)
        found = [noise_levels(scheduler, timestep) for timestep in scheduler.timesteps]
        assert [alpha for alpha, _ in found] == [1.0] * 5
        assert [sigma for _, sigma in found] == pytest.approx(scheduler.sigmas[:5].tolist())


def test_the_level_is_right_in_the_middle_of_a_walk():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(0)
    latents = torch.ones(1, 1, 2, 2)
    for timestep in scheduler.timesteps[:2]:
        latents = scheduler.step(latents, timestep, latents, return_dict=False)[0]
    assert noise_levels(scheduler, scheduler.timesteps[0])[1] == 1.0
    assert scheduler.step_index == 2


def test_the_two_kinds_are_told_apart_and_flow_matching_scales_nothing():
    latents = torch.randn(1, 1, 2, 2)
    for name in FLOW:
        assert is_flow_scheduler(FLOW[name]())
    euler = EulerDiscreteScheduler()
    euler.set_timesteps(3)
    assert not is_flow_scheduler(euler) and not is_flow_scheduler(DDIMScheduler())
    assert initial_scale(euler) == euler.init_noise_sigma > 1
    assert model_input(euler, latents, euler.timesteps[0]).norm() < latents.norm()
    flow = FlowMatchEulerDiscreteScheduler()
    assert initial_scale(flow) == 1 and model_input(flow, latents, torch.tensor(1.0)) is latents


def test_the_shift_is_linear_in_the_number_of_tokens():
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.4, max_shift=1.2)
    assert resolution_shift(scheduler, 256) == pytest.approx(0.4)
    assert resolution_shift(scheduler, 4096) == pytest.approx(1.2)
    assert resolution_shift(scheduler, (256 + 4096) // 2) == pytest.approx(0.8)


def test_flow_timesteps_take_sigmas_and_shift_where_the_scheduler_does():
    sigmas = [1.0, 0.5, 0.25]
    plain = FlowMatchEulerDiscreteScheduler(shift=1.0)
    assert set_flow_timesteps(plain, 3, "cpu", sigmas=sigmas, mu=5.0).tolist() == [1000.0, 500.0, 250.0]
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    found = set_flow_timesteps(dynamic, 3, "cpu", sigmas=sigmas, mu=1.0)
    shift = torch.tensor(1.0).exp()
    expected = [1000 * shift / (shift + 1 / sigma - 1) for sigma in sigmas]
    assert found.tolist() == pytest.approx([value.item() for value in expected], rel=1e-5)
    # these accept no sigmas
    assert len(set_flow_timesteps(FLOW["dpm"](), 3, "cpu", sigmas=sigmas)) == 3
    assert len(set_flow_timesteps(FlowMatchHeunDiscreteScheduler(), 3, "cpu", sigmas=sigmas)) == 5

"""The loop against closed forms and full autograd, on a toy denoiser of two weights."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.latent_denoising import denoising_steps, predicted_clean_latents
from ubgen_pipeline.scheduler_noise import initial_scale, noise_levels

NUM_STEPS = 6
SHAPE = (2, 3, 3)


class ToyDenoiser(torch.nn.Module):
    """Prediction = a x + b mean(prompt) + t / 1000; records the batch size and grad mode of every call."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.b = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.calls = []

    def forward(self, latents, timestep, prompt_embeds):
        self.calls.append((len(latents), torch.is_grad_enabled()))
        return self.a * latents + self.b * prompt_embeds.mean(dim=(1, 2))[:, None, None, None] + timestep / 1000


def make_scheduler(kind=DDIMScheduler):
    scheduler = kind(clip_sample=False)
    scheduler.set_timesteps(NUM_STEPS)
    return scheduler


@pytest.fixture
def latents():
    return draw_latents([1, 2], SHAPE).double()


@pytest.fixture
def prompt_embeds():
    return torch.arange(2 * 5 * 4, dtype=torch.float64).reshape(2, 5, 4) / 40


def last(steps):
    return list(steps)[-1].latents


def reference_rollout(denoiser, latents, prompt_embeds, gradient_steps):
    """The same loop spelt out: predictions of the other steps are detached, everything else is plain autograd."""
    scheduler = make_scheduler()
    for index, timestep in enumerate(scheduler.timesteps):
        prediction = denoiser(latents, timestep, prompt_embeds)
        if index not in gradient_steps:
            prediction = prediction.detach()
        latents = scheduler.step(prediction, timestep, latents).prev_sample
    return latents


@pytest.mark.parametrize("gradient_steps", [{0}, {NUM_STEPS - 1}, {1, 3, 5}, set(range(NUM_STEPS))])
def test_gradient_steps_equal_autograd_with_stopped_gradients(latents, prompt_embeds, gradient_steps):
    toy = ToyDenoiser()
    ours = last(denoising_steps(toy, make_scheduler(), latents, prompt_embeds, gradient_steps=gradient_steps))
    assert [grad for _, grad in toy.calls] == [index in gradient_steps for index in range(NUM_STEPS)]
    expected = reference_rollout(toy, latents, prompt_embeds, gradient_steps)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    parameters = [toy.a, toy.b]
    for got, wanted in zip(
        torch.autograd.grad(ours.square().sum(), parameters), torch.autograd.grad(expected.square().sum(), parameters)
    ):
        assert wanted.abs() > 1e-6
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=0)


def test_none_means_gradient_everywhere_and_the_caller_may_forbid_it(latents, prompt_embeds):
    toy = ToyDenoiser()
    everywhere = last(denoising_steps(toy, make_scheduler(), latents, prompt_embeds))
    everywhere.sum().backward()
    grad = toy.a.grad.clone()
    toy.a.grad = None
    reference_rollout(toy, latents, prompt_embeds, range(NUM_STEPS)).sum().backward()
    torch.testing.assert_close(grad, toy.a.grad)
    with torch.no_grad():
        assert not last(
            denoising_steps(toy, make_scheduler(), latents, prompt_embeds, gradient_steps={0})
        ).requires_grad


def test_no_gradient_steps_still_carry_gradient_from_the_initial_latents(latents, prompt_embeds):
    latents.requires_grad_()
    clean = last(denoising_steps(ToyDenoiser(), make_scheduler(), latents, prompt_embeds, gradient_steps=()))
    (gradient,) = torch.autograd.grad(clean.sum(), latents)
    # DDIM (Song et al. 2021, Eq. 12) with constant predictions scales x by sqrt(prev / current) of alpha-bar per step
    scheduler = make_scheduler()
    expected = (scheduler.final_alpha_cumprod / scheduler.alphas_cumprod[scheduler.timesteps[0]]).sqrt().double()
    torch.testing.assert_close(gradient, expected.expand_as(gradient), rtol=1e-5, atol=0)


def test_the_callers_grad_mode_survives_every_yield(latents, prompt_embeds):
    for _ in denoising_steps(ToyDenoiser(), make_scheduler(), latents, prompt_embeds, gradient_steps=()):
        assert torch.is_grad_enabled()


def test_guidance_is_one_doubled_call_unconditional_first(latents, prompt_embeds):
    toy, negative, weight = ToyDenoiser(), prompt_embeds * 0 - 1, 2.5
    guided = last(
        denoising_steps(toy, make_scheduler(), latents, prompt_embeds, negative=negative, guidance_scale=weight)
    )
    assert [size for size, _ in toy.calls] == [4] * NUM_STEPS
    # the toy is linear in the prompt, so guidance equals one call at the extrapolated prompt
    extrapolated = negative + weight * (prompt_embeds - negative)
    torch.testing.assert_close(guided, last(denoising_steps(toy, make_scheduler(), latents, extrapolated)))


def test_guidance_of_one_ignores_the_negative_prompt(latents, prompt_embeds):
    toy = ToyDenoiser()
    plain = last(denoising_steps(toy, make_scheduler(), latents, prompt_embeds))
    at_one = last(denoising_steps(toy, make_scheduler(), latents, prompt_embeds, negative=prompt_embeds * 9))
    assert torch.equal(plain, at_one)
    assert {size for size, _ in toy.calls} == {2}


def test_ddpm_step_noise_does_not_depend_on_the_batch(latents, prompt_embeds):
    def rollout(rows):
        return last(
            denoising_steps(
                ToyDenoiser(),
                make_scheduler(DDPMScheduler),
                latents[rows],
                prompt_embeds[rows],
                generators=step_generators([1, 2][rows]),
            )
        )

    together = rollout(slice(0, 2))
    torch.testing.assert_close(rollout(slice(1, 2))[0], together[1], rtol=0, atol=1e-12)


def test_steps_report_where_they_are(latents, prompt_embeds):
    scheduler = make_scheduler()
    steps = list(denoising_steps(ToyDenoiser(), scheduler, latents, prompt_embeds))
    assert [step.index for step in steps] == list(range(NUM_STEPS))
    assert [int(step.timestep) for step in steps] == scheduler.timesteps.tolist()
    tail = list(denoising_steps(ToyDenoiser(), scheduler, latents, prompt_embeds, timesteps=scheduler.timesteps[-2:]))
    assert [int(step.timestep) for step in tail] == scheduler.timesteps[-2:].tolist()


def test_bad_arguments_are_named_before_the_first_step(latents, prompt_embeds):
    arguments = (ToyDenoiser(), make_scheduler(), latents, prompt_embeds)
    with pytest.raises(ValueError, match="needs negative"):
        denoising_steps(*arguments, guidance_scale=2.0)
    with pytest.raises(ValueError, match=r"gradient_steps holds \[6\]"):
        denoising_steps(*arguments, gradient_steps={0, NUM_STEPS})
    with pytest.raises(ValueError, match="generators holds 1"):
        denoising_steps(*arguments, generators=step_generators([1]))
    for outside in (-1, NUM_STEPS):
        with pytest.raises(ValueError, match=f"stop_at is {outside}; the loop has steps 0 to 5"):
            denoising_steps(*arguments, stop_at=outside)
    with pytest.raises(ValueError, match=r"gradient_steps holds \[4, 5\], after stop_at = 3"):
        denoising_steps(*arguments, gradient_steps={1, 4, 5}, stop_at=3)
    edm = EDMEulerScheduler()
    edm.set_timesteps(NUM_STEPS)
    with pytest.raises(ValueError, match=r"the scheduler is EDMEulerScheduler .* no jump"):
        denoising_steps(ToyDenoiser(), edm, latents, prompt_embeds, stop_at=3)


VARIANCE_PRESERVING = [
    DDPMScheduler,
    DDIMScheduler,
    PNDMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
]
VARIANCE_EXPLODING = [EulerDiscreteScheduler, HeunDiscreteScheduler]


def make_jump_scheduler(kind, prediction_type="epsilon"):
    settings = {"clip_sample": False} if kind in (DDPMScheduler, DDIMScheduler) else {}
    # whole timesteps, whose noise level needs no interpolation
    settings |= {"timestep_spacing": "leading"} if kind in VARIANCE_EXPLODING else {}
    scheduler = kind(prediction_type=prediction_type, beta_start=1e-4, beta_end=0.02, **settings)
    scheduler.set_timesteps(NUM_STEPS)
    # DDPM draws its step noise here from the global generator
    torch.manual_seed(0)
    return scheduler


def noised(kind, prediction_type, position):
    """(scheduler, timestep, latents, a right prediction, x0), from the definitions of alpha, sigma and prediction."""
    scheduler = make_jump_scheduler(kind, prediction_type)
    timestep = scheduler.timesteps[position]
    clean, noise = (draw_latents([seed], SHAPE).double() for seed in (3, 4))
    # beta is linear from 0.0001 to 0.02 over 1,000 steps
    signal = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).sub(1).neg().cumprod(0)[int(timestep)]
    root_signal, root_noise = signal.sqrt(), (1 - signal).sqrt()
    latents = root_signal * clean + root_noise * noise
    prediction = {"epsilon": noise, "v_prediction": root_signal * noise - root_noise * clean, "sample": clean}
    if kind in VARIANCE_EXPLODING:
        latents = latents / root_signal
    return scheduler, timestep, latents, prediction[prediction_type], clean


@pytest.mark.parametrize("position", [0, 3, 5])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", VARIANCE_PRESERVING + VARIANCE_EXPLODING)
def test_predicted_clean_latents_of_a_right_prediction_are_the_clean_ones(kind, prediction_type, position):
    scheduler, timestep, latents, prediction, clean = noised(kind, prediction_type, position)
    found = predicted_clean_latents(scheduler, prediction, timestep, latents)
    assert found.dtype == torch.float64
    # the schedulers keep their noise schedule in single precision, divided here by an alpha down to 0.006
    torch.testing.assert_close(found, clean, rtol=0, atol=1e-3 if position == 0 else 1e-5)


def test_predicted_clean_latents_of_flow_matching():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(NUM_STEPS)
    clean, noise = (draw_latents([seed], SHAPE).double() for seed in (3, 4))
    for position, timestep in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[position].double()
        latents = (1 - sigma) * clean + sigma * noise
        found = predicted_clean_latents(scheduler, noise - clean, timestep, latents)
        torch.testing.assert_close(found, clean, rtol=0, atol=1e-6)
        assert noise_levels(scheduler, timestep) == pytest.approx((1 - sigma.item(), sigma.item()), abs=1e-7)


@pytest.mark.parametrize("kind", VARIANCE_PRESERVING + VARIANCE_EXPLODING)
def test_a_jump_ends_the_loop_with_what_the_prediction_implies(kind, latents, prompt_embeds):
    """Against a loop spelt out, for schedulers with a history and a noise scale too; the toy's gradient flows."""
    toy, stop_at = ToyDenoiser(), 3
    scheduler = make_jump_scheduler(kind)
    start = latents * scheduler.init_noise_sigma
    steps = list(denoising_steps(toy, scheduler, start, prompt_embeds, gradient_steps={stop_at}, stop_at=stop_at))
    assert [step.index for step in steps] == [0, 1, 2, 3] and len(toy.calls) == 4
    scheduler, state = make_jump_scheduler(kind), start
    for timestep in scheduler.timesteps[:stop_at]:
        with torch.no_grad():
            prediction = toy(scheduler.scale_model_input(state, timestep), timestep, prompt_embeds)
            state = scheduler.step(prediction, timestep, state, return_dict=False)[0]
    timestep = scheduler.timesteps[stop_at]
    prediction = toy(scheduler.scale_model_input(state, timestep), timestep, prompt_embeds)
    signal = scheduler.alphas_cumprod[int(timestep)].double()
    if kind in VARIANCE_EXPLODING:
        expected = state - ((1 - signal) / signal).sqrt() * prediction
    else:
        expected = (state - (1 - signal).sqrt() * prediction) / signal.sqrt()
    torch.testing.assert_close(steps[-1].latents, expected, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(clean.square().sum(), [toy.a, toy.b]) for clean in (steps[-1].latents, expected)]
    for got, wanted in zip(*gradients):
        assert wanted.abs() > 1e-3
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler])
def test_flow_matching_walks_the_straight_line(kind, latents, prompt_embeds):
    """A right velocity, noise - x0, leads from noise to x0, and a jump from any step does, too."""
    clean = torch.full_like(latents, 0.25)
    for stop_at in (None, 0, 2):
        scheduler = kind(shift=3.0)
        scheduler.set_timesteps(NUM_STEPS)
        assert initial_scale(scheduler) == 1.0
        steps = denoising_steps(lambda *_: latents - clean, scheduler, latents, prompt_embeds, stop_at=stop_at)
        torch.testing.assert_close(last(steps).double(), clean, rtol=0, atol=1e-5)

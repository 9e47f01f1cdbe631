"""Leaps and known noise: values and gradients against references written out for each kind of prediction.

The references spell out x = alpha x0 + sigma noise for noise, velocity and flow predictions (Ho et al. 2020; Salimans
and Ho 2022; Lipman et al. 2023), under full autograd with stop-gradients where the papers put them.
"""

import pytest
import torch

from support.kinds_of_schedulers import KINDS, NUM_STEPS, scheduler_of
from ubgen_training.sampler.replays import KeptRollout, direct_align, direct_align_weight, leap
from ubgen_training.sampler.step_levels import StepLevels


def level(kind, scheduler, position):
    """(alpha, sigma), from the schedulers' own tables; position T is the end."""
    if kind == "flow":
        sigma = float(scheduler.sigmas[position])
        return 1 - sigma, sigma
    if position == NUM_STEPS:
        return 1.0, 0.0
    signal = float(scheduler.alphas_cumprod[int(scheduler.timesteps[position])])
    return signal**0.5, (1 - signal) ** 0.5


def moved(kind, latents, prediction, here, there):
    (alpha, sigma), (alpha_to, sigma_to) = here, there
    if kind == "flow":
        return latents + (sigma_to - sigma) * prediction
    if kind == "epsilon":
        return alpha_to * (latents - sigma * prediction) / alpha + sigma_to * prediction
    return alpha_to * (alpha * latents - sigma * prediction) + sigma_to * (sigma * latents + alpha * prediction)


class Toy:
    """A denoiser of one matrix of weights, not linear in what it reads."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(3, 3, generator=generator, dtype=torch.float64).requires_grad_(True)

    def __call__(self, latents, position):
        mixed = torch.einsum("dc,bchw->bdhw", self.weights, latents)
        return torch.tanh(mixed * (1 + position / 4))


def random_latents(seed):
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(latents, toy):
    loss = (latents * random_latents(9)).sum()
    return torch.autograd.grad(loss, toy.weights)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", [(1, 3), (0, 2, 5), (4,)])
@pytest.mark.parametrize("discount", [0.0, 0.3, 1.0])
def test_leaps_have_the_rollouts_values_and_the_gradient_of_their_chain(kind, positions, discount):
    scheduler, toy = scheduler_of(kind), Toy()
    levels = StepLevels(scheduler, scheduler.timesteps)
    before, clean = {position: random_latents(position) for position in positions}, random_latents(7)
    found = leap(KeptRollout(before, clean), levels, toy, discount)
    torch.testing.assert_close(found.detach(), clean, rtol=0, atol=1e-12)

    latents = before[positions[0]]
    for position, following in zip(positions, [*positions[1:], NUM_STEPS]):
        read = discount * latents + (1 - discount) * latents.detach()
        here, there = (level(kind, scheduler, at) for at in (position, following))
        landed = moved(kind, latents, toy(read, position), here, there)
        real = clean if following == NUM_STEPS else before[following]
        latents = landed - landed.detach() + real
    expected = gradient(latents, toy)
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient(found, toy), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_discount_scales_what_one_prediction_passes_to_the_other(kind):
    scheduler, toy = scheduler_of(kind), Toy()
    levels = StepLevels(scheduler, scheduler.timesteps)
    rollout = KeptRollout({1: random_latents(1), 4: random_latents(4)}, random_latents(7))
    none, half, whole = (gradient(leap(rollout, levels, toy, discount), toy) for discount in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (none + whole) / 2)
    assert (whole - none).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tolerance", [0.3, 1.0])
def test_samples_whose_leaps_land_away_from_the_rollout_count_less(kind, tolerance):
    """LeapAlign's 1 / (max(d_j, tau) + max(d_0, tau)) of each sample's loss, times 2 tau, which makes it 1 at best."""
    scheduler, toy = scheduler_of(kind), Toy()
    levels = StepLevels(scheduler, scheduler.timesteps)
    first, second, clean = (random_latents(seed) for seed in (1, 4, 7))
    with torch.no_grad():
        # the first sample's leaps land where the rollout is, but for a little
        landing = moved(kind, first, toy(first, 1), level(kind, scheduler, 1), level(kind, scheduler, 4))
        second[0] = landing[0] + 0.01
        ending = moved(kind, second, toy(second, 4), level(kind, scheduler, 4), level(kind, scheduler, NUM_STEPS))
        clean[0] = ending[0] + 0.02
    rollout = KeptRollout({1: first, 4: second}, clean)
    found = leap(rollout, levels, toy, 0.5, tolerance)
    assert torch.equal(found.detach(), leap(rollout, levels, toy, 0.5).detach())
    distances = [(landing - second).abs().mean(dim=(1, 2, 3)), (ending - clean).abs().mean(dim=(1, 2, 3))]
    weights = 2 * tolerance / sum(distance.clamp(min=tolerance) for distance in distances)
    assert weights[0] == 1 and weights[1] < 0.9
    plain = leap(rollout, levels, toy, 0.5)
    losses = ((plain * random_latents(9)).sum(dim=(1, 2, 3)) * weights.detach()).sum()
    torch.testing.assert_close(gradient(found, toy), torch.autograd.grad(losses, toy.weights)[0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", range(NUM_STEPS))
def test_known_noise_is_taken_off_again(kind, position):
    scheduler, toy = scheduler_of(kind), Toy()
    levels = StepLevels(scheduler, scheduler.timesteps)
    clean, noise = random_latents(1), random_latents(2)
    here, there = level(kind, scheduler, position), level(kind, scheduler, position + 1)
    right = {"epsilon": noise, "v_prediction": here[0] * noise - here[1] * clean, "flow": noise - clean}[kind]
    recovered = direct_align(clean, noise, levels, lambda *_: right, position)
    torch.testing.assert_close(recovered, clean, rtol=0, atol=1e-5)

    found = direct_align(clean, noise, levels, toy, position)
    noisy = here[0] * clean + here[1] * noise
    expected = (moved(kind, noisy, toy(noisy, position), here, there) - there[1] * noise) / there[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient(found, toy), gradient(expected, toy), rtol=1e-4, atol=1e-6)


def test_the_weight_under_known_noise_is_the_steps_part_of_the_signal():
    """The clean latents get (sigma' - sigma) / (1 - sigma') of the velocity (arXiv 2509.06942, Eq. 7)."""
    scheduler = scheduler_of("flow")
    levels, sigmas = StepLevels(scheduler, scheduler.timesteps), scheduler.sigmas.tolist()
    for position in range(NUM_STEPS):
        expected = (sigmas[position + 1] - sigmas[position]) / (1 - sigmas[position + 1])
        assert direct_align_weight(levels, position) == pytest.approx(expected, rel=1e-4)

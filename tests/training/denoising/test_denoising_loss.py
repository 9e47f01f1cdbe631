"""Weights and targets against closed forms, each other, diffusers, and at the ends of a schedule."""

import pytest
import torch
from diffusers import DDPMScheduler

from ubgen_training.denoising.denoising_loss import (
    CLEAN_WEIGHTS,
    ERROR_FACTORS,
    PREDICTION_TYPES,
    DenoisingLoss,
    denoising_target,
    loss_weights,
    predicted_clean,
    target_of,
)

ALPHAS = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod.double()
SNR = ALPHAS / (1 - ALPHAS)
# as the papers print them, for the target they are printed for
PUBLISHED = {
    ("constant", "noise"): torch.ones_like(SNR),
    ("snr", "x0"): torch.ones_like(SNR),
    ("snr", "noise"): 1 / SNR,
    ("p2", "noise"): 1 / (1 + SNR),
    ("min_snr", "noise"): torch.minimum(SNR, torch.full_like(SNR, 5.0)) / SNR,
    ("min_snr", "x0"): torch.minimum(SNR, torch.full_like(SNR, 5.0)),
    ("min_snr", "velocity"): torch.minimum(SNR, torch.full_like(SNR, 5.0)) / (SNR + 1),
    ("debias", "noise"): 1 / SNR.sqrt(),
    ("debias", "velocity"): SNR.sqrt() / (SNR + 1),
}


@pytest.mark.parametrize(
    ("names", "expected"), PUBLISHED.items(), ids=lambda item: "-".join(item) if isinstance(item, tuple) else ""
)
def test_published_weights(names, expected):
    torch.testing.assert_close(loss_weights(ALPHAS, *names), expected)


@pytest.mark.parametrize("weighting", CLEAN_WEIGHTS)
def test_one_network_has_the_same_loss_whatever_it_predicts(weighting):
    """The same guess of the clean sample, said as noise, x0 or velocity."""
    generator = torch.Generator().manual_seed(0)
    clean, noise, guess = torch.randn(3, 64, 4, 5, 5, generator=generator, dtype=torch.float64)
    timesteps = torch.randint(1000, (64,), generator=generator)
    noisy = DenoisingLoss(ALPHAS).add_noise(clean, noise, timesteps)
    alphas = ALPHAS[timesteps].view(-1, 1, 1, 1)
    implied_noise = (noisy - alphas.sqrt() * guess) / (1 - alphas).sqrt()
    predictions = {
        "x0": guess,
        "noise": implied_noise,
        "velocity": alphas.sqrt() * implied_noise - (1 - alphas).sqrt() * guess,
    }
    losses = {
        target: DenoisingLoss(ALPHAS, weighting, target)(prediction, clean, noise, timesteps)
        for target, prediction in predictions.items()
    }
    assert losses["x0"].shape == (64,) and losses["x0"].min() > 0
    for target in ("noise", "velocity"):
        torch.testing.assert_close(losses[target], losses["x0"], rtol=1e-3, atol=0)
        back = predicted_clean(noisy, predictions[target], timesteps, ALPHAS, target)
        torch.testing.assert_close(back, guess)


def test_noise_and_velocity_are_those_of_diffusers():
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    clean, noise = torch.randn(2, 6, 3, 4, 4)
    timesteps = torch.tensor([0, 1, 500, 700, 998, 999])
    loss = DenoisingLoss(scheduler.alphas_cumprod, "min_snr", "velocity")
    torch.testing.assert_close(loss.add_noise(clean, noise, timesteps), scheduler.add_noise(clean, noise, timesteps))
    velocity = denoising_target(clean, noise, timesteps, scheduler.alphas_cumprod, "velocity")
    torch.testing.assert_close(velocity, scheduler.get_velocity(clean, noise, timesteps))


@pytest.mark.parametrize("weighting", CLEAN_WEIGHTS)
@pytest.mark.parametrize("target", ERROR_FACTORS)
def test_zero_terminal_snr(weighting, target):
    """Limits at SNR 0, worked out by hand; the noise target cannot carry weights that are infinite there."""
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    alphas = scheduler.alphas_cumprod.clone()
    assert alphas[-1] < 1e-6
    # diffusers keeps 2**-24 of it
    alphas[-1] = 0
    limits = {
        "noise": {"constant": 1, "p2": 1, "min_snr": 1},
        "x0": {"constant": 0, "snr": 1, "p2": 0, "min_snr": 0, "debias": 0},
        "velocity": {"constant": 0, "snr": 1, "p2": 0, "min_snr": 0, "debias": 0},
    }
    if weighting not in limits[target]:
        with pytest.raises(ValueError, match=r"infinite on target 'noise' where SNR is 0.*timestep 999"):
            loss_weights(alphas, weighting, target)
        return
    weights = loss_weights(alphas, weighting, target)
    assert torch.isfinite(weights).all() and (weights >= 0).all()
    assert weights[-1].item() == pytest.approx(limits[target][weighting], abs=2e-6)


def test_no_noise_at_all():
    alphas = torch.tensor([1.0, 0.5])
    assert loss_weights(alphas, "constant", "velocity").tolist() == pytest.approx([1, 0.5])
    assert loss_weights(alphas, "debias", "noise").tolist() == pytest.approx([0, 1], abs=1e-5)
    with pytest.raises(ValueError, match="SNR is infinity"):
        loss_weights(alphas, "constant", "x0")


def test_names():
    with pytest.raises(ValueError, match="choose one of constant, snr, p2, min_snr, debias"):
        loss_weights(ALPHAS, "min-snr", "noise")
    with pytest.raises(ValueError, match="choose one of noise, x0, velocity"):
        loss_weights(ALPHAS, "debias", "epsilon")
    assert [target_of(name) for name in PREDICTION_TYPES.values()] == list(PREDICTION_TYPES)
    with pytest.raises(ValueError, match="flow_prediction"):
        target_of("flow_prediction")

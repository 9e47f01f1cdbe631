"""Denoising training of flow matching: the loss in closed form, and the noise levels each family is trained at."""

import math

import numpy as np
import pytest
import torch

from support.family_models import FAMILY_NAMES, own_pipeline, tiny_pipeline
from support.tiny_models import flux
from ubgen_pipeline.scheduler_noise import is_flow_scheduler
from ubgen_training.denoising.denoiser_model import DenoiserModel
from ubgen_training.denoising.flow_loss import FlowLoss, FlowWeighting, flow_schedule
from ubgen_training.lora.adapter import LoraSettings

SIGMAS = torch.tensor([1.0, 0.75, 0.5, 0.1])
TIMESTEPS = 1000 * SIGMAS


@pytest.mark.parametrize(
    "scheme, weight",
    [
        ("logit_normal", lambda s: 1.0),
        ("mode", lambda s: 1.0),
        ("none", lambda s: 1.0),
        ("sigma_sqrt", lambda s: s**-2),
        ("cosmap", lambda s: 2 / (math.pi * (1 - 2 * s + 2 * s**2))),
    ],
)
def test_the_loss_of_a_linear_toy_is_its_closed_form(scheme, weight):
    """Of the prediction a x: a x - (noise - x0) = (a (1 - s) + 1) x0 + (a s - 1) noise."""
    loss, slope = FlowLoss(SIGMAS, TIMESTEPS, FlowWeighting(scheme)), 0.7
    clean, noise = torch.full((4, 2, 1, 1), 2.0), torch.full((4, 2, 1, 1), -3.0)
    position = torch.arange(4)
    noisy = loss.add_noise(clean, noise, position)
    assert torch.equal(loss.timesteps_at(position), TIMESTEPS)
    expected = [
        weight(s) * ((slope * (1 - s) + 1) * 2.0 + (slope * s - 1) * -3.0) ** 2 for s in SIGMAS.double().tolist()
    ]
    assert loss(slope * noisy, clean, noise, position).tolist() == pytest.approx(expected, rel=1e-5)
    assert loss(noise - clean, clean, noise, position).tolist() == [0.0] * 4


def test_shares_are_drawn_as_the_scheme_says():
    def shares(**settings):
        return FlowWeighting(**settings).shares(20_000, torch.Generator().manual_seed(0))

    logits = torch.logit(shares(logit_mean=0.5, logit_std=2.0))
    assert (logits.mean().item(), logits.std().item()) == pytest.approx((0.5, 2.0), abs=0.05)
    even, middle = shares(weighting_scheme="none"), shares()
    assert even.std().item() == pytest.approx(12**-0.5, abs=0.01) and middle.std() < 0.8 * even.std()
    assert torch.equal(shares(weighting_scheme="sigma_sqrt"), even)
    heavy = shares(weighting_scheme="mode", mode_scale=1.75)
    assert heavy.min() >= 0 and heavy.max() <= 1 and heavy.std() < even.std()
    # share 0 is noise, which is the first of the levels
    drawn = FlowLoss(SIGMAS, TIMESTEPS, FlowWeighting(logit_mean=-9.0)).draw(50, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {0}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"weighting_scheme": "debias"}, "weighting_scheme is 'debias'; choose one of logit_normal, mode"),
        ({"weighting_scheme": "mode", "logit_std": 2.0}, "logit_std is 2.0, but weighting_scheme is 'mode'"),
        ({"mode_scale": 1.0}, "mode_scale is 1.0, but weighting_scheme is 'logit_normal'"),
        ({"weighting_scheme": "mode", "mode_scale": 1.8}, "mode_scale is 1.8; choose one from -1 to 1.75"),
        ({"logit_std": 0.0}, "logit_std is 0.0; choose a number above 0"),
        ({"logit_mean": math.nan}, "logit_mean is nan"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        FlowWeighting(**settings)


def test_levels_are_shifted_as_the_schedulers_are_for_the_images_size():
    pipeline = own_pipeline("flux", flux.build())
    config, shape = pipeline.scheduler.config, pipeline.latent_shape(64, 32)
    sigmas, timesteps = flow_schedule(pipeline, shape)
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    mu = config.base_shift + slope * (shape[1] // 2 * (shape[2] // 2) - config.base_image_seq_len)
    plain = torch.linspace(1, 1 / 1000, 1000, dtype=torch.float64)
    expected = math.exp(mu) / (math.exp(mu) + 1 / plain - 1)
    torch.testing.assert_close(sigmas.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(timesteps.double(), 1000 * expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_every_family_is_trained_at_the_levels_that_it_walks(name):
    pipeline = own_pipeline(name, tiny_pipeline(name))
    model = {"lora": LoraSettings(2), "size": (32, 32)}
    if name == "sana-sprint":
        with pytest.raises(ValueError, match=r"scheduler is SCMScheduler, which has no noise schedule .* rewards"):
            DenoiserModel(pipeline, ["star"], **model)
        return
    shape, is_flow = pipeline.latent_shape(32, 32), is_flow_scheduler(pipeline.scheduler)
    if is_flow:
        for settings, named in (({"weighting": "debias"}, "weighting"), ({"target": "noise"}, "target")):
            with pytest.raises(ValueError, match=f"{named} is '.*', but the model predicts velocities"):
                DenoiserModel(pipeline, ["star"], **model, **settings)
        sigmas, timesteps = flow_schedule(pipeline, shape)
        assert len(sigmas) == 1000 and bool((sigmas.diff() <= 0).all()) and 0 < sigmas[-1] < sigmas[0] <= 1
        walked = pipeline.timesteps(pipeline.default_num_inference_steps, shape).double().numpy()
        levels = pipeline.scheduler.sigmas[: len(walked)].double().numpy()
        between = np.interp(walked, timesteps.double().numpy()[::-1], sigmas.double().numpy()[::-1])
        np.testing.assert_allclose(between, levels, rtol=0, atol=3e-3)
    else:
        with pytest.raises(ValueError, match="weighting_scheme is 'mode', but the model does not predict velocities"):
            DenoiserModel(pipeline, ["star"], flow=FlowWeighting("mode"), **model)
    trained = DenoiserModel(pipeline, ["star", "ring"], empty_prompt_share=0.0, **model)
    seen = []
    predict = trained.predict
    trained.predict = lambda *inputs: seen.append([*inputs, predict(*inputs)]) or seen[-1][-1]
    pixels, labels = torch.rand(2, 3, 32, 32) * 2 - 1, torch.tensor([1, 0])
    losses = trained(pixels, labels, torch.Generator().manual_seed(0))
    losses.mean().backward()
    weights = [weight for name, weight in trained.named_parameters() if "lora_B" in name]
    assert all(weight.grad is not None for weight in weights)
    assert sum(bool(weight.grad.norm() > 0) for weight in weights) > 0.8 * len(weights)
    # from what the network read and gave, by the definition
    ((noisy, timestep, _, prediction),), generator = seen, torch.Generator().manual_seed(0)
    clean = trained.encode(pixels)
    noise = torch.randn(clean.shape, generator=generator)
    position = trained.loss.draw(2, generator)
    if is_flow:
        assert torch.equal(timestep, timesteps[position])
        sigma = sigmas[position].view(-1, 1, 1, 1)
        torch.testing.assert_close(noisy, (1 - sigma) * clean + sigma * noise)
        expected = (prediction - (noise - clean)).square().flatten(1).mean(1)
        torch.testing.assert_close(losses, expected)
    else:
        # a learned variance is left out
        assert torch.equal(timestep, position) and prediction.shape == clean.shape

"""Predictions on finished samples with noise against plain calls of the denoiser."""

import pytest
import torch

from support.family_models import own_pipeline, tiny_pipeline
from support.text_features import text_features
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.lora.adapter import LoraSettings
from ubgen_training.nft.forward_sampler import ForwardSampler, Noised
from ubgen_training.sampler.sampler_model import SamplingSettings

NAMES = ["circle", "star", "ring"]
LABELS, SEEDS = torch.tensor([1, 2]), [5, 6]


@pytest.fixture(scope="module")
def sampler(tiny_model):
    model = ForwardSampler(
        load_pipeline(tiny_model, scheduler="ddim"), NAMES, LoraSettings(2), SamplingSettings(4, 2.0), seed=1
    )
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
    return model


def noised(sampler, positions):
    clean, noise = torch.randn(2, 2, *sampler.latent_shape, generator=torch.Generator().manual_seed(0))
    return Noised(clean, noise, torch.tensor(positions))


@torch.no_grad()
def test_a_finished_sample_has_the_images_of_its_latents(sampler):
    finished = sampler(LABELS, SEEDS, record=True)
    assert torch.equal(finished.images, sampler(LABELS, SEEDS))
    assert torch.equal(sampler.decode(finished.latents), finished.images)


@torch.no_grad()
def test_predictions_are_the_denoisers_without_guidance(sampler):
    given = noised(sampler, [3, 0])
    prediction, none = sampler(LABELS, noised=given)
    assert none is None
    scheduler = sampler.pipeline.scheduler
    scheduler.set_timesteps(4)
    prompts = text_features(sampler.pipeline, ["star", "ring"])
    for row, position in enumerate([3, 0]):
        timestep = scheduler.timesteps[position]
        signal = scheduler.alphas_cumprod[timestep]
        noisy = signal.sqrt() * given.clean[row] + (1 - signal).sqrt() * given.noise[row]
        expected = sampler.pipeline.unet(noisy[None], timestep, prompts[row : row + 1]).sample[0]
        torch.testing.assert_close(prediction[row], expected, rtol=1e-3, atol=1e-4)


def test_the_reference_is_the_model_without_its_lora(sampler, tiny_model):
    given = noised(sampler, [1, 2])
    prediction, reference = sampler(LABELS, noised=given, with_reference=True)
    assert prediction.requires_grad and not reference.requires_grad
    untrained = ForwardSampler(
        load_pipeline(tiny_model, scheduler="ddim"), NAMES, LoraSettings(2), SamplingSettings(4, 2.0)
    )
    torch.testing.assert_close(reference, untrained(LABELS, noised=given)[0])
    assert (prediction - reference).abs().max() > 1e-3


@torch.no_grad()
def test_a_model_of_flow_matching_is_shown_the_straight_way():
    pipeline = own_pipeline("sd3", tiny_pipeline("sd3"))
    settings = SamplingSettings(3, 1.0, 32, 32)
    sampler = ForwardSampler(pipeline, ["a circle", "a star"], LoraSettings(2), settings)
    given = noised(sampler, [2, 1])
    seen = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get("hidden_states", args[0] if args else None)), with_kwargs=True
    )
    sampler(torch.tensor([0, 1]), noised=given)
    pipeline.timesteps(3, sampler.latent_shape)
    sigmas = pipeline.scheduler.sigmas[given.index].view(2, 1, 1, 1)
    torch.testing.assert_close(seen[0], (1 - sigmas) * given.clean + sigmas * given.noise, rtol=1e-5, atol=1e-6)

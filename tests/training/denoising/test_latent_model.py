"""What every loss in latent space shares: latents, predictions, timesteps and the noise schedule."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from support.small_trainings import NAMES
from support.text_features import text_features
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.denoising.latent_model import LatentModel, stratified, training_schedule


@pytest.fixture
def model(random_mini_model):
    return LatentModel(load_pipeline(random_mini_model), NAMES)


def test_latents_are_those_of_the_pipeline_and_nothing_random_takes_part(model):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latents = model.encode(images * 2 - 1)
    assert latents.shape == (2, 4, 16, 16) and latents.dtype == torch.float32 and not latents.requires_grad
    with torch.no_grad():
        assert torch.equal(latents, model.pipeline.encode_images(images).float())


def test_the_prompts_and_last_the_empty_one_are_encoded(model):
    with torch.no_grad():
        expected = text_features(model.pipeline, [*NAMES, ""])
        text = model.conditioning["encoder_hidden_states"]
        latents, timesteps = torch.randn(3, 4, 16, 16), torch.tensor([1, 500, 900])
        predicted = model.predict(latents, timesteps, model.conditioning)
        assert torch.equal(predicted, model.denoiser_network(latents, timesteps, text).sample)
    assert torch.allclose(text, expected, atol=1e-5) and model.conditioning.num_rows == len(NAMES) + 1


def test_only_the_denoiser_is_in_the_state_and_the_vae_goes_along(model):
    assert all(name.startswith("denoiser_network.") for name in model.state_dict())
    pipeline = model.pipeline
    frozen = [*pipeline.vae.parameters(), *pipeline.text_encoder.parameters()]
    assert not any(parameter.requires_grad for parameter in frozen)
    model.to(torch.float64)
    assert {p.dtype for p in (*pipeline.vae.parameters(), *pipeline.unet.parameters())} == {torch.float64}
    assert next(pipeline.text_encoder.parameters()).dtype == torch.float32


def test_activation_checkpointing_goes_by_either_name(model):
    assert not model.denoiser_network.is_gradient_checkpointing
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.denoiser_network.is_gradient_checkpointing


def test_no_number_is_past_the_last(monkeypatch):
    """The largest number that torch.rand gives, with which float32 rounds 511 + u up to 512."""
    monkeypatch.setattr(torch, "rand", lambda count, generator: torch.full((count,), 1 - 2**-24))
    assert stratified(512, 1000, torch.Generator()).max() == 999


@pytest.mark.parametrize(("batch", "num_values"), [(4, 1000), (7, 50), (1, 3)])
def test_there_is_one_number_in_every_part(batch, num_values):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        numbers = stratified(batch, num_values, generator)
        assert numbers.dtype == torch.int64 and numbers.shape == (batch,)
        for part, number in enumerate(numbers.tolist()):
            assert part * num_values // batch <= number < -(-(part + 1) * num_values // batch)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, UniPCMultistepScheduler, DPMSolverMultistepScheduler])
def test_zero_terminal_snr_is_exactly_zero(scheduler):
    plain, rescaled = scheduler(), scheduler(rescale_betas_zero_snr=True)
    assert torch.equal(training_schedule(plain), plain.alphas_cumprod)
    alphas = training_schedule(rescaled)
    assert alphas[-1] == 0 and torch.equal(alphas[:-1], rescaled.alphas_cumprod[:-1])

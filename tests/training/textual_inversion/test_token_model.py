"""One learned word: only its vectors learn, by the scheduler's own target, and they can be installed."""

import pytest
import torch

from support.text_features import text_features
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.textual_inversion.example_images import read_images
from ubgen_training.textual_inversion.token_model import TokenModel, encode_images


@pytest.fixture
def model(random_mini_model):
    return TokenModel(load_pipeline(random_mini_model), "<frame>", "star", 2, ["a {token}", "{token}"], seed=1)


def test_only_the_vectors_learn_and_the_loss_falls(model):
    pipeline = model.pipeline
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["vectors"]
    star = pipeline.text_encoder.get_input_embeddings().weight[pipeline.tokenizer.convert_tokens_to_ids("star</w>")]
    assert torch.equal(model.vectors[0], star) and not torch.equal(model.vectors[1], star)
    latents = encode_images(pipeline, read_images("novel:frame:4:5", 64, 64))
    generator = torch.Generator().manual_seed(0)
    noise, timesteps = torch.randn(latents.shape, generator=generator), torch.tensor([100, 300, 500, 700])
    templates = torch.tensor([0, 1, 0, 1])
    optimizer, losses = torch.optim.Adam([model.vectors], lr=0.05), []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(latents, noise, timesteps, templates)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and all(p.grad is None for p in pipeline.unet.parameters())


def test_the_loss_is_the_schedulers_own_target(model):
    """At the last step of a velocity model, v = alpha noise - sigma x0 (Salimans and Ho 2022, appendix D)."""
    pipeline = model.pipeline
    latents, noise = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
    timesteps, templates = torch.tensor([400]), torch.tensor([0])
    alpha = pipeline.scheduler.alphas_cumprod[400].sqrt()
    sigma = (1 - alpha**2).sqrt()
    with torch.no_grad():
        given = pipeline.given_conditioning(pipeline.text_encoder(model.prompt_ids[:1])[0])
        predicted = pipeline.predict(alpha * latents + sigma * noise, timesteps, given)
        expected = (predicted - (alpha * noise - sigma * latents)).square().mean()
        assert model(latents, noise, timesteps, templates).item() == pytest.approx(expected.item(), rel=1e-4)


def test_installed_vectors_draw_what_was_trained(model):
    with torch.no_grad():
        model.vectors.add_(0.5)
        hooked = text_features(model.pipeline, ["a <frame>"])
        model.install()
        assert torch.equal(text_features(model.pipeline, ["a <frame>"]), hooked)


def test_latents_are_the_pipelines_whatever_the_batch(model):
    images = read_images("novel:frame:3:5", 64, 64)
    latents = encode_images(model.pipeline, images, batch_size=2)
    assert latents.shape == (3, 4, 16, 16) and latents.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(latents, model.pipeline.encode_images(images), rtol=1e-4, atol=1e-5)


def test_everything_goes_where_the_word_goes(model):
    assert list(model.state_dict()) == ["vectors"]
    model.to(torch.float64)
    assert model.vectors.dtype == torch.float64 and model.prompt_ids.dtype == torch.int64
    networks = model.pipeline.networks.values()
    assert {p.dtype for network in networks for p in network.parameters()} == {torch.float64}

"""The mini autoencoder: shapes, what its two trainings change, and how a reconstruction is measured."""

import math

import torch

from ubgen_training.mini.autoencoder import (
    build_autoencoder,
    encode_latents,
    reconstruction_psnr,
    refine_decoder,
    train_autoencoder,
)
from ubgen_training.mini.scene_batches import render_set, to_unit_range


def test_latents_are_scaled_means_of_the_posterior():
    model = build_autoencoder()
    model.register_to_config(scaling_factor=0.5)
    images = render_set(3, bias=0.0, seed=1, num_workers=1).images
    with torch.no_grad():
        expected = model.encode(to_unit_range(images)).latent_dist.mean
    assert expected.shape == (3, 4, 16, 16)
    assert torch.equal(encode_latents(model, images, scaled=False), expected)
    assert torch.equal(encode_latents(model, images), expected * 0.5)


def test_the_refinement_leaves_the_latents_as_they_are(tmp_path):
    data = render_set(8, bias=0.0, seed=2, num_workers=1)
    model = train_autoencoder(data, tmp_path, num_steps=1)
    latents = encode_latents(model, data.images)
    # the scaling factor gives them the deviation of noise
    torch.testing.assert_close(latents.std(), torch.tensor(1.0))
    before, decoder = latents, model.decoder.conv_out.weight.detach().clone()
    refine_decoder(model, data, tmp_path, num_steps=1)
    assert torch.equal(encode_latents(model, data.images), before)
    assert not torch.equal(model.decoder.conv_out.weight, decoder)
    assert {file.name for file in tmp_path.iterdir()} == {"autoencoder.safetensors", "decoder.safetensors"}


def test_the_signal_to_noise_ratio_of_a_known_error(monkeypatch):
    """An error of 51 of 255 everywhere is 20 log10(5) dB."""
    import ubgen_training.mini.autoencoder as module

    images = torch.full((2, 3, 64, 64), 100, dtype=torch.uint8)
    monkeypatch.setattr(module, "_decoded", lambda model, latents: to_unit_range(images + 51))
    assert math.isclose(reconstruction_psnr(build_autoencoder(), images), 20 * math.log10(5), rel_tol=1e-4)

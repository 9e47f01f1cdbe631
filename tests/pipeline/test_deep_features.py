"""The UNet with deep layers that are used again: equal to the UNet where nothing is, and what it keeps where it is."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from support.family_models import CASES
from ubgen_pipeline.deep_features import DeepFeatureDenoiser
from ubgen_pipeline.models.loading import load_pipeline

NAMES = ["circle", "star", "heart"]


def _inputs(num_samples=2, size=16, width=96):
    torch.manual_seed(0)
    return torch.randn(num_samples, 4, size, size), torch.tensor(500), torch.randn(num_samples, 77, width)


@pytest.fixture(scope="module")
def sd_like():
    """Four levels with two layers each, the last without attention, as in Stable Diffusion."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


@pytest.mark.parametrize("num_outer_layers", [0, 1, 2])
@pytest.mark.parametrize("size", [16, 20])
@torch.no_grad()
def test_a_whole_pass_is_the_unets_own(sd_like, num_outer_layers, size):
    latents, timestep, text = _inputs(size=size, width=12)
    expected = sd_like(latents, timestep, text).sample
    (found,) = DeepFeatureDenoiser(sd_like, 3, num_outer_layers=num_outer_layers)(latents, timestep, text)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@torch.no_grad()
def test_deep_layers_run_at_every_third_call_and_whenever_the_batch_changes(sd_like):
    latents, timestep, text = _inputs(num_samples=4, width=12)
    calls = []
    handle = sd_like.mid_block.register_forward_hook(lambda *_: calls.append(1))
    denoiser, counts = DeepFeatureDenoiser(sd_like, 3), []
    for num_samples in (4, 4, 4, 4, 2, 2, 2):
        calls.clear()
        denoiser(latents[:num_samples], timestep, text[:num_samples])
        counts.append(len(calls))
    handle.remove()
    assert counts == [1, 0, 0, 1, 1, 0, 1]


@torch.no_grad()
def test_between_them_only_the_deep_features_are_old(sd_like):
    latents, timestep, text = _inputs(width=12)
    denoiser = DeepFeatureDenoiser(sd_like, 2)
    denoiser(latents, timestep, text)
    later = latents + 0.01
    whole = sd_like(later, timestep, text).sample
    (found,) = denoiser(later, timestep, text)
    assert 0 < (found - whole).abs().max() < 0.1 * whole.std()
    # the same input again: the kept features are the right ones
    again = DeepFeatureDenoiser(sd_like, 2)
    again(later, timestep, text)
    torch.testing.assert_close(again(later, timestep, text)[0], whole, rtol=0, atol=0)


# the second also reads the guidance
@pytest.mark.parametrize("name", ["sdxl", "sdxl lcm"])
@torch.no_grad()
def test_a_whole_pass_of_sdxls_unet_is_its_own(name):
    pipeline, latents = CASES[name].pipeline, CASES[name].noise(2)
    text, _ = pipeline.with_guidance(pipeline.batch(pipeline.encode(["a circle", "a star"])), 3.0)
    deep = DeepFeatureDenoiser(pipeline.unet, 2)
    expected = pipeline.predict(latents, torch.tensor(500), text)
    assert torch.equal(pipeline.predict(latents, torch.tensor(500), text, network=deep), expected)
    kept = pipeline.predict(latents + 0.1, torch.tensor(500), text, network=deep)
    assert (kept - pipeline.predict(latents + 0.1, torch.tensor(500), text)).abs().max() > 1e-5


def test_a_pipeline_call_takes_the_shortcuts(random_mini_model):
    pipeline = load_pipeline(random_mini_model)
    pipeline.set_progress_bar_config(disable=True)

    def latents(**changes):
        return pipeline(NAMES, seeds=[1, 2, 3], num_inference_steps=4, output_type="latent", **changes).images

    exact = latents()
    torch.testing.assert_close(latents(guidance_until=1.0, deep_features_every=1), exact, rtol=0, atol=0)
    for shortcut in ({"guidance_until": 0.5}, {"deep_features_every": 2}):
        assert (latents(**shortcut) - exact).abs().max() > 1e-3
        # each batch begins anew
        torch.testing.assert_close(latents(**shortcut, batch_size=2), latents(**shortcut), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guidance_until": 1.5}, "guidance_until is 1.5; give a share"),
        ({"deep_features_every": 0}, "deep_features_every is 0"),
        ({"deep_features_every": 2, "annotations": ["mask"]}, "annotations need the attention of every step"),
        ({"deep_features_every": 2, "cross_attention_kwargs": {"scale": 0.5}}, "takes no cross_attention_kwargs"),
    ],
)
def test_what_a_shortcut_would_spoil_is_refused(random_mini_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_pipeline(random_mini_model)(NAMES, **arguments)


def test_a_unet_of_another_kind_is_refused(sd_like):
    with pytest.raises(ValueError, match="deep_features_every is True"):
        DeepFeatureDenoiser(sd_like, True)
    sd_like.mid_block._hf_hook = object()
    with pytest.raises(ValueError, match="does not work with offloading"):
        DeepFeatureDenoiser(sd_like, 2)
    del sd_like.mid_block._hf_hook
    other = UNet2DConditionModel(
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        norm_num_groups=4,
        class_embed_type="timestep",
    )
    with pytest.raises(ValueError, match="this one has class_embed_type"):
        DeepFeatureDenoiser(other, 2)

"""Stable Diffusion XL and its distilled kinds against diffusers' own call, and what is its alone."""

from dataclasses import replace

import pytest
import torch

from support.tiny_models import sdxl
from ubgen_pipeline.call_arguments import TextSettings
from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.pipeline_sdxl import UbGenSDXLPipeline

NAMES = ["circle", "star"]
SETTINGS = {"num_inference_steps": 3, "output_type": "pt"}
# equal arithmetic up to the order of a product
TOLERANCE = 1e-5
KINDS = {
    "base": {},
    "text of an empty prompt": {"force_zeros": False},
    "statistics of latents": {"statistics": True},
    "two levels": {"num_levels": 2},
    "turbo": {"kind": "turbo"},
    "lcm": {"kind": "lcm"},
}


def ours_of(stock):
    pipeline = UbGenSDXLPipeline(
        **stock.components,
        force_zeros_for_empty_prompt=stock.config.force_zeros_for_empty_prompt,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def stock(kind):
    pipeline = sdxl.build(**KINDS[kind])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("size", [(32, 32), (48, 24)])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_images_equal_the_stock_call(stock, guidance_scale, size):
    settings = {**SETTINGS, "guidance_scale": guidance_scale, "height": size[0], "width": size[1]}
    pipeline = ours_of(stock)
    ours = pipeline(NAMES, **settings)
    noise = draw_latents(ours.seeds, pipeline.latent_shape(*size))
    expected = stock(NAMES, latents=noise, generator=step_generators(ours.seeds), **settings).images
    assert ours.images.shape == (2, 3, *size) and ours.images.std() > 0.02
    torch.testing.assert_close(ours.images, expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def base():
    return sdxl.build()


def test_negative_prompts_equal_the_stock_call_and_matter(base):
    pipeline = ours_of(base)
    settings = {**SETTINGS, "guidance_scale": 4.0, "negative_prompt": ["a heart", "night"]}
    ours = pipeline(NAMES, **settings)
    noise = draw_latents(ours.seeds, pipeline.latent_shape())
    torch.testing.assert_close(ours.images, base(NAMES, latents=noise, **settings).images, rtol=0, atol=TOLERANCE)
    plain = pipeline(NAMES, **{**settings, "negative_prompt": None}).images
    assert (ours.images - plain).abs().amax(dim=(1, 2, 3)).min() > 100 * TOLERANCE


def test_the_empty_prompt_is_zeros_only_where_images_are_guided_away_from_it(base):
    pipeline = ours_of(base)
    (prompt,), (negative,) = pipeline.encode([""]), pipeline.encode([""], TextSettings(negative=True))
    assert not any(value.any() for value in negative.tensors.values())
    assert all(value.any() for value in prompt.tensors.values())
    assert negative["encoder_hidden_states"].shape == (77, 56) and negative["text_embeds"].shape == (20,)


@pytest.mark.parametrize(
    "kind, steps, scale, guidance",
    [("base", 50, 5.0, "classifier-free"), ("turbo", 4, 1.0, "classifier-free"), ("lcm", 4, 8.0, "embedded")],
)
def test_defaults_follow_the_configuration(kind, steps, scale, guidance):
    pipeline = ours_of(sdxl.build(kind))
    found = pipeline.default_num_inference_steps, pipeline.default_guidance_scale, pipeline.guidance
    assert found == (steps, scale, guidance)


def test_a_second_pipeline_keeps_the_switches_of_the_first():
    pipeline = ours_of(sdxl.build(force_zeros=False))
    twin = pipeline.with_scheduler(type(pipeline.scheduler).from_config(pipeline.scheduler.config))
    assert type(twin) is UbGenSDXLPipeline and twin.unet is pipeline.unet
    assert twin.scheduler is not pipeline.scheduler and twin.config.force_zeros_for_empty_prompt is False


def test_the_vae_that_overflows_in_half_precision_runs_in_single():
    pipeline = ours_of(sdxl.build())
    pipeline.vae.half()
    latents = draw_latents([1], pipeline.latent_shape()).half()
    half = pipeline.decode(latents)
    assert half.dtype == torch.float16 and pipeline.vae.dtype == torch.float32
    torch.testing.assert_close(half.float(), pipeline.decode(latents.float()), rtol=0, atol=1e-3)


@pytest.mark.parametrize("statistics", [False, True])
def test_encoding_is_decodings_scale_undone(statistics):
    pipeline = ours_of(sdxl.build(statistics=statistics))
    config, images = pipeline.vae.config, torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        latents = pipeline.encode_images(images)
        posterior = pipeline.vae.encode(images * 2 - 1).latent_dist.mode()
    expected = posterior * config.scaling_factor
    if statistics:
        mean, std = (torch.tensor(values).view(1, 4, 1, 1) for values in (config.latents_mean, config.latents_std))
        expected = (posterior - mean) * config.scaling_factor / std
    torch.testing.assert_close(latents, expected)


def test_annotations_leave_the_image_as_it_is(base):
    pipeline = ours_of(base)
    # the class's name stands in the prompt already, so nothing is appended
    plain = pipeline(NAMES, **SETTINGS)
    # self-attention of random weights is nearly uniform, and would even out what the classes' maps show
    masks = replace(pipeline.default_mask_settings(), self_power=0)
    annotated = pipeline(NAMES, annotations=["mask", "box"], mask_settings=masks, **SETTINGS)
    assert torch.equal(annotated.images, plain.images)
    assert [mask.shape for mask in annotated.masks] == [(32, 32)] * 2
    assert all(item.heat_maps.shape == (1, 32, 32) and item.heat_maps.std() > 0 for item in annotated.annotations)


def test_a_refiner_is_no_base_model(base):
    pipeline = ours_of(base)
    assert pipeline.family_misfit() is None
    pipeline.text_encoder = None
    assert "no refiner" in pipeline.family_misfit()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"weighted_prompts": True}, "weighted_prompts is True, and UbGenSDXLPipeline reads no word weights"),
        ({"deep_features_every": 2}, "deep_features_every is 2, and the layers of UbGenSDXLPipeline"),
        ({"eta": 0.5}, "eta is 0.5, which EulerDiscreteScheduler does not read"),
    ],
)
def test_what_has_no_effect_is_refused_by_name(base, arguments, message):
    with pytest.raises(ValueError, match=message):
        ours_of(base)(NAMES, **SETTINGS, **arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"negative_prompt": "night"}, "negative_prompt is 'night', and this model is not guided away"),
        ({"guidance_until": 0.5}, "guidance_until is 0.5, and this model has no second prediction"),
    ],
)
def test_a_model_that_reads_the_scale_is_guided_away_from_nothing(arguments, message):
    with pytest.raises(ValueError, match=message):
        ours_of(sdxl.build("lcm"))(NAMES, **SETTINGS, **arguments)

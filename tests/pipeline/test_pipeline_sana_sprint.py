"""Sana-Sprint against diffusers' own pipeline: its own kind of steps, and the guidance that its denoiser reads."""

import inspect

import pytest
import torch
from diffusers import SanaPipeline, SanaSprintPipeline

from support.tiny_models import sana_sprint
from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.models.loading import set_scheduler
from ubgen_pipeline.pipeline_sana_sprint import UbGenSanaSprintPipeline

NAMES = ["circle", "star"]
PROMPTS = ["a circle", "a photo of a star in the evening"]
TOLERANCE = 1e-5
DRAWING = {"height": 32, "width": 32, "output_type": "pt"}


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def stock():
    return quiet(sana_sprint.build())


@pytest.fixture(scope="module")
def pipeline(stock):
    return quiet(UbGenSanaSprintPipeline(**stock.components))


@pytest.mark.parametrize(
    ("num_steps", "guidance_scale", "size"), [(1, 4.5, (32, 32)), (2, 4.5, (96, 64)), (4, 2.0, (32, 32))]
)
def test_images_equal_the_stock_call(stock, pipeline, num_steps, guidance_scale, size):
    settings = {
        "height": size[0],
        "width": size[1],
        "num_inference_steps": num_steps,
        "guidance_scale": guidance_scale,
    }
    ours = pipeline(NAMES, prompts=PROMPTS, output_type="pt", **settings)
    # the stock call wants its middle step left out wherever there are not two
    middle = {} if num_steps == 2 else {"intermediate_timesteps": None}
    expected = stock(
        list(PROMPTS),
        latents=draw_latents(ours.seeds, pipeline.latent_shape(*size)),
        generator=step_generators(ours.seeds),
        output_type="pt",
        use_resolution_binning=False,
        clean_caption=False,
        **middle,
        **settings,
    ).images
    assert ours.images.std() > 0.01
    torch.testing.assert_close(ours.images, expected, rtol=0, atol=TOLERANCE)


def test_defaults_and_instruction_are_those_of_the_stock_call(pipeline):
    parameters = inspect.signature(SanaSprintPipeline.__call__).parameters
    for own in ("num_inference_steps", "guidance_scale"):
        assert getattr(pipeline, f"default_{own}") == parameters[own].default
    assert pipeline.max_sequence_length == parameters["max_sequence_length"].default
    name = "complex_human_instruction"
    assert parameters[name].default == inspect.signature(SanaPipeline.__call__).parameters[name].default


def test_an_image_does_not_depend_on_its_batch(pipeline):
    together = pipeline(NAMES, prompts=PROMPTS, num_images_per_class=2, **DRAWING)
    in_parts = pipeline(NAMES, prompts=PROMPTS, num_images_per_class=2, batch_size=3, **DRAWING)
    torch.testing.assert_close(in_parts.images, together.images, rtol=0, atol=TOLERANCE)
    assert (together.images[0] - together.images[1]).abs().max() > 100 * TOLERANCE


def test_the_denoiser_reads_the_guidance_and_none_is_guided_away_from(pipeline):
    weak, strong = (pipeline(NAMES, guidance_scale=scale, **DRAWING).images for scale in (1.0, 20.0))
    assert (weak - strong).abs().max() > 10 * TOLERANCE
    with pytest.raises(ValueError, match="negative_prompt is 'heart'"):
        pipeline(NAMES, negative_prompt="heart", **DRAWING)


def test_gradient_of_a_weight_equals_finite_differences():
    pipeline = quiet(UbGenSanaSprintPipeline(**sana_sprint.build().components))
    for network in pipeline.networks.values():
        network.requires_grad_(False).double()
    weight = pipeline.transformer.transformer_blocks[0].attn2.to_v.weight.requires_grad_()
    shape = pipeline.latent_shape(32, 32)
    with torch.no_grad():
        conditioning, _ = pipeline.with_guidance(pipeline.batch(pipeline.encode(PROMPTS)), 4.5)

    def reward():
        (timestep,) = pipeline.timesteps(1, shape)
        latents = draw_latents([1, 2], shape).double()
        return pipeline.decode(pipeline.predict(latents, timestep, conditioning)).square().sum()

    (gradient,) = torch.autograd.grad(reward(), weight)
    base, step = weight.detach().clone(), 0.001 * gradient / gradient.norm()
    rewards = []
    with torch.no_grad():
        for moved in (base + step, base - step):
            weight.copy_(moved)
            rewards.append(reward())
    torch.testing.assert_close((rewards[0] - rewards[1]) / 0.002, gradient.norm(), rtol=0.01, atol=0)


def test_a_source_image_is_refused_by_name(pipeline):
    with pytest.raises(ValueError, match=r"SCMScheduler.*no noise to an image"):
        pipeline(NAMES, source_images=torch.rand(2, 3, 32, 32), **DRAWING)


@pytest.mark.parametrize("scheduler", ["ddpm", "flow-euler"])
def test_a_scheduler_of_another_kind_is_refused(pipeline, scheduler):
    with pytest.raises(
        ValueError, match=f"scheduler is '{scheduler}', and UbGenSanaSprintPipeline has steps of its own"
    ):
        set_scheduler(pipeline, scheduler)


def test_a_saved_model_reloads_and_its_parts_draw_the_same_in_plain_diffusers(stock, pipeline, tmp_path):
    expected = pipeline(NAMES, **DRAWING)
    pipeline.save_pretrained(tmp_path)
    again = quiet(UbGenSanaSprintPipeline.from_pretrained(tmp_path))
    assert torch.equal(again(NAMES, **DRAWING).images, expected.images)
    plain = quiet(SanaSprintPipeline(**again.components))
    drawn = plain(
        NAMES,
        latents=draw_latents(expected.seeds, pipeline.latent_shape(32, 32)),
        generator=step_generators(expected.seeds),
        use_resolution_binning=False,
        clean_caption=False,
        **DRAWING,
    ).images
    torch.testing.assert_close(drawn, expected.images, rtol=0, atol=TOLERANCE)

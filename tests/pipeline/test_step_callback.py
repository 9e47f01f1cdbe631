"""Callbacks that change guidance or prompts between steps, as diffusers' own pipelines and callbacks do."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.callbacks import (
    MultiPipelineCallbacks,
    SD3CFGCutoffCallback,
    SDCFGCutoffCallback,
    SDXLCFGCutoffCallback,
)

from support.family_models import own_pipeline, tiny_pipeline
from support.text_features import text_features
from ubgen_pipeline import UbGenPipeline
from ubgen_pipeline.initial_latents import draw_latents

NAMES = ["circle", "star"]
QUICK = {"num_inference_steps": 4, "output_type": "latent", "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def pipeline(random_mini_model):
    pipeline = UbGenPipeline.from_pretrained(random_mini_model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def cut_off(pipeline, step, timestep, tensors):
    if step == 1:
        pipeline._guidance_scale = 0.0
    return tensors


def test_a_guidance_scale_that_is_set_counts_from_the_next_step_in_every_batch(pipeline):
    expected = pipeline(NAMES, guidance_until=0.5, **QUICK).images
    assert not torch.allclose(expected, pipeline(NAMES, **QUICK).images)
    assert torch.equal(pipeline(NAMES, callback_on_step_end=cut_off, **QUICK).images, expected)
    alone = pipeline(NAMES, callback_on_step_end=cut_off, batch_size=1, **QUICK).images
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-5)


def test_guidance_can_begin_late(pipeline):
    def begin(own, step, timestep, tensors):
        own._guidance_scale = 3.0

    plain = pipeline(NAMES, **{**QUICK, "guidance_scale": 1.0}).images
    late = pipeline(NAMES, callback_on_step_end=begin, **{**QUICK, "guidance_scale": 1.0}).images
    assert not torch.allclose(plain, late)


def test_a_callback_that_changes_nothing_changes_nothing(pipeline):
    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    seen = []

    def note(own, step, timestep, tensors):
        seen.append({name: tuple(value.shape) for name, value in tensors.items()})
        return tensors

    found = pipeline(NAMES, callback_on_step_end=note, callback_on_step_end_tensor_inputs=names, **QUICK).images
    assert torch.equal(found, pipeline(NAMES, **QUICK).images)
    assert [list(shapes) for shapes in seen] == [names] * 4
    assert [seen[0][name][0] for name in names] == [2, 4, 2]


def test_diffusers_own_cut_off_gives_the_stock_pipelines_image(pipeline):
    stock = StableDiffusionPipeline(**pipeline.components, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    latents = draw_latents([5], pipeline.latent_shape())
    for callback in (SDCFGCutoffCallback, lambda **given: MultiPipelineCallbacks([SDCFGCutoffCallback(**given)])):
        cut = callback(cutoff_step_ratio=None, cutoff_step_index=1)
        expected = stock("star", latents=latents.clone(), callback_on_step_end=cut, **QUICK).images
        found = pipeline(["star"], seeds=[5], callback_on_step_end=cut, **QUICK).images
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    # of several samples, too, where the stock pipeline mixes them up
    several = pipeline(NAMES, seeds=[4, 5], callback_on_step_end=cut, **QUICK).images
    torch.testing.assert_close(several[1:], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "callback"), [("sdxl", SDXLCFGCutoffCallback), ("sd3", SD3CFGCutoffCallback)], ids=["sdxl", "sd3"]
)
def test_the_cut_offs_of_other_families(family, callback):
    pipeline = own_pipeline(family, tiny_pipeline(family))
    size = {"num_inference_steps": 4, "height": 32, "width": 32, "output_type": "latent", "guidance_scale": 3.0}
    cut = callback(cutoff_step_ratio=None, cutoff_step_index=1)
    found = pipeline(NAMES, callback_on_step_end=cut, **size).images
    assert torch.equal(found, pipeline(NAMES, guidance_until=0.5, **size).images)


def test_prompts_can_be_replaced(pipeline):
    with torch.no_grad():
        other = text_features(pipeline, ["ring", "heart"])
        empty = text_features(pipeline, ["", ""])

    def replace(own, step, timestep, tensors):
        if step == 0:
            return {"prompt_embeds": other if as_rows else torch.cat([empty, other])}

    def in_place(own, step, timestep, tensors):
        tensors["prompt_embeds"][-2:] = other
        return {}

    names = {"callback_on_step_end_tensor_inputs": ["prompt_embeds"], **QUICK}
    as_rows = True
    found = [pipeline(NAMES, callback_on_step_end=replace, **names).images]
    as_rows = False
    found += [pipeline(NAMES, callback_on_step_end=callback, **names).images for callback in (replace, in_place)]
    assert not torch.allclose(found[0], pipeline(NAMES, **QUICK).images, atol=1e-3)
    for image in found[1:]:
        torch.testing.assert_close(image, found[0], rtol=0, atol=1e-5)


def test_bad_input(pipeline):
    def three(own, step, timestep, tensors):
        return {"prompt_embeds": torch.zeros(3, *tensors["prompt_embeds"].shape[1:])}

    with pytest.raises(ValueError, match=r"gives prompt_embeds of shape \(3, .*; it was \(4, "):
        names = {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
        pipeline(NAMES, callback_on_step_end=three, **names, **QUICK)
    with pytest.raises(ValueError, match=r"holds 'image_embeds'; .* has latents, prompt_embeds"):
        pipeline(NAMES, callback_on_step_end=cut_off, callback_on_step_end_tensor_inputs=["image_embeds"], **QUICK)

"""Annotations of the pipeline's call: images stay as they are, masks lie on the objects, several classes at once."""

import dataclasses

import numpy as np
import pytest
import torch

from ubgen_pipeline import UbGenPipeline
from ubgen_pipeline.annotations import annotate
from ubgen_pipeline.attention_maps import AttentionRecorder, joined_texts
from ubgen_pipeline.class_tokens import class_texts
from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_pipeline.mask_settings import PAPER, SMALL
from ubgen_pipeline.mini.scenes import scenes


@pytest.fixture(scope="module")
def pipeline(mini_model):
    pipeline = UbGenPipeline.from_pretrained(mini_model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_images_do_not_change_and_masks_do_not_depend_on_the_batch(pipeline):
    names, settings = ["circle", "star", "ring"], {"seed": 5, "num_inference_steps": 4, "output_type": "np"}
    plain = pipeline(names, **settings)
    together = pipeline(names, annotations=["mask", "box"], **settings)
    alone = pipeline(names, annotations=["mask"], batch_size=1, **settings)
    np.testing.assert_array_equal(plain.images, together.images)
    assert plain.masks is None and plain.boxes is None and plain.annotations is None and alone.boxes is None
    for label, (mask, boxes, other) in enumerate(zip(together.masks, together.boxes, alone.masks)):
        assert mask.shape == (64, 64) and set(np.unique(mask)) <= {0, label + 1, 255} and (mask == label + 1).any()
        assert boxes.shape[1] == 4 and len(boxes)
        assert (mask != other).mean() < 0.01
        x0, y0, x1, y1 = boxes[0]
        assert (mask[y0:y1, x0:x1] == label + 1).any()


@torch.no_grad()
def test_masks_lie_on_the_objects_of_rendered_scenes(pipeline):
    """Scenes are noised half-way and drawn again; the objects keep their places, which the scenes know."""
    rendered = list(scenes(8, bias=0.95, seed=4))
    names = [scene.factors.class_name for scene in rendered]
    images = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in rendered]) / 127.5 - 1
    clean = pipeline.vae.encode(images).latent_dist.mean * pipeline.vae.config.scaling_factor
    pipeline.scheduler.set_timesteps(12)
    timesteps = pipeline.scheduler.timesteps[6:]
    given = pipeline.batch(pipeline.encode(names))
    texts = joined_texts([class_texts(pipeline, name, [name], True) for name in names])
    recorder = AttentionRecorder(
        pipeline.unet, texts, (16, 16), cross_levels=SMALL.cross_levels, self_level=0, steps=SMALL.recorded_steps(6)
    )
    latents = pipeline.scheduler.add_noise(clean, draw_latents(range(8), (4, 16, 16)), timesteps[:1])
    with recorder:
        list(denoising_steps(pipeline.predict, pipeline.scheduler, latents, given, timesteps=timesteps))

    def mean_iou(settings):
        found = annotate(recorder.result(), settings, (64, 64), [[0]] * 8)
        inside, truth = np.stack([item.mask == 1 for item in found]), np.stack([scene.mask for scene in rendered])
        return ((inside & truth).sum(axis=(1, 2)) / (inside | truth).sum(axis=(1, 2))).mean()

    assert mean_iou(SMALL) > 0.65
    assert mean_iou(dataclasses.replace(SMALL, invert=False)) < 0.1


def test_class_prompts_append_and_several_classes(pipeline):
    output = pipeline(
        ["a scene"],
        prompts=["a photo"],
        shown_classes=[["star", "dining table"]],
        shown_labels=[[6, 2]],
        annotations=["heatmap"],
        num_inference_steps=2,
    )
    (found,) = output.annotations
    assert output.prompts == ["a photo; star dining table"]
    assert found.labels == [6, 2] and found.heat_maps.shape == (2, 64, 64)
    assert found.heat_maps.min() >= 0 and found.heat_maps.max() <= 1
    settings = dataclasses.replace(SMALL, class_prompt=False, append_class_names=False)
    with pytest.raises(ValueError, match="class word 'star' does not stand in the prompt 'a photo'"):
        pipeline(["star"], prompts=["a photo"], annotations=["mask"], mask_settings=settings)
    with pytest.raises(ValueError, match="cross_level is 2"):
        pipeline(["star"], annotations=["mask"], mask_settings=PAPER, num_inference_steps=1)
    with pytest.raises(ValueError, match="annotations holds 'maks'"):
        pipeline(["star"], annotations=["maks"])

"""Image-to-image and inpainting: equal to diffusers' own image-to-image, and exact outside a region."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.mini.scenes import scenes
from ubgen_pipeline.models.loading import load_pipeline, set_scheduler

NAMES = ["circle", "star"]


@pytest.fixture(scope="module")
def pipeline(random_mini_model):
    pipeline = load_pipeline(random_mini_model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def rendered():
    drawn = list(scenes(2, bias=0.0, seed=3, class_names=NAMES))
    images = torch.from_numpy(np.stack([scene.image for scene in drawn])).permute(0, 3, 1, 2).float() / 255
    return images, torch.from_numpy(np.stack([scene.mask for scene in drawn]))


def draw(pipeline, images, **settings):
    given = {"seeds": [5, 6], "num_inference_steps": 5, "output_type": "pt", **settings}
    return pipeline(NAMES, source_images=images, **given).images


@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "dpm++", "unipc"])
def test_image_to_image_equals_diffusers(pipeline, rendered, scheduler, monkeypatch):
    set_scheduler(pipeline, scheduler)
    images = rendered[0]
    ours = draw(pipeline, images, strength=0.6, guidance_scale=3.0)
    reference = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    reference.set_progress_bar_config(disable=True)
    # the reference draws the posterior and the noise from one generator; ours takes its mean, and the seeds' noise
    noise, latents = draw_latents([5, 6], (4, 16, 16)), pipeline.encode_images(images)
    monkeypatch.setattr(
        reference, "prepare_latents", lambda *a, **k: reference.scheduler.add_noise(latents, noise, a[1])
    )
    theirs = reference(
        NAMES, image=images, strength=0.6, num_inference_steps=5, guidance_scale=3.0, output_type="pt"
    ).images
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_more_strength_leaves_less_of_the_source(pipeline, rendered):
    set_scheduler(pipeline, "ddim")
    decoded = pipeline.decode(pipeline.encode_images(rendered[0])).clamp(0, 1)
    distance = [(draw(pipeline, rendered[0], strength=s) - decoded).abs().mean() for s in (0.2, 0.6, 1.0)]
    assert distance[0] < distance[1] < distance[2]


def test_inpainting_changes_the_region_alone(pipeline, rendered):
    images, masks = rendered
    drawn = draw(pipeline, images, regions=masks, strength=1.0)
    outside = ~masks[:, None].expand_as(images)
    assert torch.equal(drawn[outside], images[outside])
    assert (drawn - images)[~outside].abs().mean() > 0.05
    # what is drawn depends on what surrounds it
    darker = torch.where(outside, images * 0.3, images)
    assert not torch.allclose(
        draw(pipeline, darker, regions=masks, strength=1.0)[~outside], drawn[~outside], atol=1e-2
    )


def test_a_sample_does_not_depend_on_its_batch(pipeline, rendered):
    images, masks = rendered
    together = draw(pipeline, images, regions=masks)
    apart = draw(pipeline, images, regions=masks, batch_size=1)
    assert torch.allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_images": torch.zeros(1, 3, 64, 64)}, "source_images has shape"),
        ({"source_images": torch.zeros(2, 3, 64, 64).byte()}, "floating point"),
        ({"source_images": torch.full((2, 3, 64, 64), 1.5)}, "ranges from 1.5"),
        ({"strength": 0.0}, "strength is 0.0"),
        ({"strength": 1.1}, "strength is 1.1"),
        ({"regions": torch.ones(2, 32, 64, dtype=torch.bool)}, "regions has shape"),
        ({"regions": torch.zeros(2, 64, 64, dtype=torch.bool)}, "regions is empty for sample 0"),
        ({"source_images": None, "regions": torch.ones(2, 64, 64, dtype=torch.bool)}, "without source_images"),
    ],
)
def test_bad_input(pipeline, change, message):
    given = {"source_images": torch.zeros(2, 3, 64, 64), **change}
    with pytest.raises(ValueError, match=message):
        pipeline(NAMES, num_inference_steps=2, **given)

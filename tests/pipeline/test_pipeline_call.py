"""The call as the life of a sample: batches in order, features that are stopped, prompts given or encoded, saving."""

import json

import pytest
import torch

from support.text_features import text_features
from ubgen_pipeline import UbGenPipeline
from ubgen_pipeline.initial_latents import draw_latents

NAMES = ["circle", "star", "ring"]
QUICK = {"num_inference_steps": 3, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipeline(random_mini_model):
    pipeline = UbGenPipeline.from_pretrained(random_mini_model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_batches_are_walked_one_after_another_and_put_together_in_order(pipeline):
    seen = []

    def note(own, step, timestep, tensors):
        assert own is pipeline
        seen.append((step, int(timestep), len(tensors["latents"]), tensors["latents"]))
        return {}

    output = pipeline(NAMES, num_images_per_class=2, batch_size=4, callback_on_step_end=note, **QUICK)
    pipeline.scheduler.set_timesteps(3)
    timesteps = pipeline.scheduler.timesteps.tolist()
    walk = list(enumerate(timesteps))
    assert [entry[:3] for entry in seen] == [(*place, 4) for place in walk] + [(*place, 2) for place in walk]
    assert torch.equal(output.images, torch.cat([seen[len(walk) - 1][3], seen[-1][3]]))
    assert output.labels == [0, 0, 1, 1, 2, 2]


def test_what_is_not_given_is_the_familys_own(pipeline, monkeypatch):
    monkeypatch.setattr(type(pipeline), "default_num_inference_steps", 2)
    monkeypatch.setattr(type(pipeline), "default_guidance_scale", 1.5)
    ours = pipeline(NAMES[:1], output_type="latent").images
    asked = pipeline(NAMES[:1], num_inference_steps=2, guidance_scale=1.5, output_type="latent").images
    assert torch.equal(ours, asked) and pipeline.guidance_scale == 1.5


def test_given_embeddings_are_used_and_nothing_is_encoded(pipeline, monkeypatch):
    expected = pipeline(NAMES, negative_prompt="dull", **QUICK).images
    with torch.no_grad():
        embeds, negative = (text_features(pipeline, texts) for texts in (NAMES, ["dull"] * 3))
    monkeypatch.setattr(pipeline.text_encoder, "forward", lambda *_, **__: pytest.fail("a prompt was encoded"))
    given = pipeline(NAMES, prompt_embeds=embeds, negative_prompt_embeds=negative, **QUICK).images
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5)


def test_a_failing_step_leaves_the_pipeline_as_it_was(pipeline):
    before = dict(pipeline.unet.attn_processors)
    expected = pipeline(NAMES[:1], **QUICK).images

    def fail(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pipeline(NAMES[:1], annotations=["mask"], callback_on_step_end=fail, num_inference_steps=3)
    assert all(pipeline.unet.attn_processors[name] is processor for name, processor in before.items())
    assert torch.equal(pipeline(NAMES[:1], **QUICK).images, expected)


def test_an_interrupt_ends_the_walk_with_the_latents_so_far(pipeline):
    seen = []

    def stop_at_the_second(own, step, timestep, tensors):
        seen.append(tensors["latents"])
        own._interrupt = step == 1
        return {}

    output = pipeline(NAMES[:1], callback_on_step_end=stop_at_the_second, **QUICK)
    assert len(seen) == 2 and torch.equal(output.images, seen[-1])


@pytest.mark.parametrize("stopped_batch", [0, 1])
def test_images_that_an_interrupt_left_unfinished_have_no_annotations(pipeline, stopped_batch):
    """Whether a recorded step ran or not; the images of all batches are still there."""
    begun = []

    def stop(own, step, timestep, tensors):
        begun.extend([step] if step == 0 else [])
        own._interrupt = len(begun) == stopped_batch + 1
        return {}

    settings = {"annotations": ["mask", "box"], "num_inference_steps": 4, "batch_size": 1, "seed": 0}
    output = pipeline(NAMES[:2], callback_on_step_end=stop, **settings)
    assert len(output.images) == 2 and output.masks is output.boxes is output.annotations is None
    assert len(pipeline(NAMES[:2], **settings).masks) == 2


def test_the_same_noise_may_be_given(pipeline):
    ours = pipeline(NAMES, **QUICK)
    noise = draw_latents(ours.seeds, pipeline.latent_shape())
    given = pipeline(NAMES, latents=noise, seeds=ours.seeds, **QUICK)
    assert torch.equal(given.images, ours.images)


def test_no_gradient_is_kept(pipeline):
    with torch.enable_grad():
        assert not pipeline(NAMES[:1], output_type="pt", num_inference_steps=1).images.requires_grad


def test_saving_writes_the_code_beside_the_configuration(pipeline, tmp_path):
    pipeline.save_config(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text("utf-8"))
    assert index["_class_name"] == ["pipeline", "UbGenPipeline"]
    for name in ("pipeline.py", "pipeline_call.py", "family.py"):
        assert (tmp_path / name).is_file(), name
    assert UbGenPipeline._dict_from_json_file(tmp_path / "model_index.json")["_class_name"] == "UbGenPipeline"
    with pytest.raises(ValueError, match=r"push_to_hub is True; call push_to_hub\(\)"):
        pipeline.save_config(tmp_path / "other", push_to_hub=True)
    assert not (tmp_path / "other").exists()

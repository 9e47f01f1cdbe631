"""Where networks wait: diffusers' own offloading, and text encoders beside a device that draws."""

import pytest
import torch

from support.tiny_models import qwen_image
from ubgen_pipeline.inference.placement import place_networks, text_encoders_on
from ubgen_pipeline.pipeline_qwen_image import UbGenQwenImagePipeline

CALL = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "pt"}


@pytest.fixture
def pipeline():
    pipeline = UbGenQwenImagePipeline(**qwen_image.build().components)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def moves(pipeline, monkeypatch):
    """(network, device) of every move."""
    made = []
    for name, part in pipeline.networks.items():
        monkeypatch.setattr(part, "to", lambda device, name=name: made.append((name, str(device))))
    return made


def test_text_encoders_wait_while_the_others_draw(pipeline, moves):
    place_networks(pipeline, "cuda:1", "text")
    assert sorted(moves) == [("text_encoder", "cpu"), ("transformer", "cuda:1"), ("vae", "cuda:1")]


def test_nothing_waits(pipeline, moves):
    place_networks(pipeline, "cuda:1", "none")
    assert {device for _, device in moves} == {"cuda:1"} and len(moves) == 3


@pytest.mark.parametrize(("offload", "others"), [("none", "text, model or group"), ("text", "model or group")])
def test_too_little_memory_for_the_text_encoder_says_what_to_give(pipeline, moves, monkeypatch, offload, others):
    def fill(device):
        if str(device) != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipeline.text_encoder, "to", fill)
    message = rf"offload is '{offload}', and cuda:1 has too little memory for the text_encoder .*give {others} \(--off"
    with pytest.raises(ValueError, match=message):
        place_networks(pipeline, "cuda:1", offload)
        with text_encoders_on(pipeline, "cuda:1"):
            pass


def test_networks_wait_by_diffusers_own_offloading(pipeline, monkeypatch):
    asked = {}
    monkeypatch.setattr(pipeline, "enable_model_cpu_offload", lambda **settings: asked.update(settings))
    place_networks(pipeline, "cuda:1", "model")
    assert asked == {"device": "cuda:1"}


def test_blocks_that_wait_draw_the_same_image(pipeline):
    plain = pipeline(["circle"], **CALL).images
    # from the CPU to the CPU, since there is no other device here: the hooks are those of any device
    place_networks(pipeline, "cpu", "group")
    assert pipeline._is_pipeline_device_mapped() is False
    assert any("group_offloading" in str(type(hook)) for hook in _hooks(pipeline.transformer))
    assert torch.equal(pipeline(["circle"], **CALL).images, plain)


def _hooks(network):
    registries = [module._diffusers_hook for module in network.modules() if hasattr(module, "_diffusers_hook")]
    return [hook for registry in registries for hook in registry.hooks.values()]


def test_text_encoders_stay_where_they_are_unless_told(pipeline, moves):
    with text_encoders_on(pipeline, None):
        pass
    assert moves == []
    with text_encoders_on(pipeline, "cpu"):
        assert len(moves) == 1
    assert len(moves) == 2

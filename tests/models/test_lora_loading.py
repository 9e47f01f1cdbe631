"""LoRAs as files: what plain diffusers draws with them, and what does not fit refused by name, changing nothing."""

import logging

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from ubgen_pipeline import load_pipeline
from ubgen_pipeline.models.lora_loading import load_lora

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
LORA_FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def lora_folder(mini_model, tmp_path_factory):
    """A LoRA in diffusers format of rank 4 and alpha 8, so that alpha's metadata matters."""
    folder = tmp_path_factory.mktemp("lora")
    unet = StableDiffusionPipeline.from_pretrained(mini_model).unet
    config = LoraConfig(r=4, lora_alpha=8, target_modules=ATTENTION, init_lora_weights=False)
    torch.manual_seed(0)
    unet.add_adapter(config)
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=config.to_dict() | {"target_modules": ATTENTION},
    )
    return folder


def draw(pipeline, **settings):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(["star"], num_inference_steps=2, output_type="np", **settings).images


def test_a_lora_gives_the_image_of_plain_diffusers(mini_model, lora_folder):
    ours = load_pipeline(mini_model, lora=lora_folder)
    plain = load_pipeline(mini_model)
    base = draw(plain)
    plain.load_lora_weights(lora_folder)
    np.testing.assert_allclose(draw(ours), draw(plain), rtol=0, atol=1e-6)
    assert np.abs(draw(ours) - base).max() > 1e-3
    np.testing.assert_allclose(draw(ours, cross_attention_kwargs={"scale": 0.0}), base, rtol=0, atol=1e-5)
    from_file = load_pipeline(mini_model, lora=lora_folder / LORA_FILE)
    np.testing.assert_allclose(draw(from_file), draw(ours), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_two_loras_that_fit_are_loaded_without_a_word(mini_model, lora_folder, capsys):
    """Neither that the text encoder has no part in them, nor that the second stands beside the first."""
    handler = logging.StreamHandler()
    logging.getLogger("diffusers").addHandler(handler)
    try:
        pipeline = load_pipeline(mini_model, lora=lora_folder, few_step_lora=lora_folder)
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert len(pipeline.get_list_adapters()["unet"]) == 2
    assert "LoRA" not in capsys.readouterr().err


def test_a_lora_that_does_not_fit_is_named_and_loads_nothing(mini_model, lora_folder, tmp_path):
    weights = load_file(lora_folder / LORA_FILE)
    key = next(key for key in weights if key.endswith("attn2.to_k.lora_A.weight"))
    misfits = {
        "wide": weights | {key: torch.zeros(4, 768)},
        "elsewhere": {name.replace("down_blocks.0", "down_blocks.7"): value for name, value in weights.items()},
        "foreign": {f"transformer.{name}": value for name, value in weights.items()},
    }
    pipeline = load_pipeline(mini_model)
    for name, misfit in misfits.items():
        save_file(misfit, tmp_path / f"{name}.safetensors")
        with pytest.raises(ValueError, match=rf"lora is '.*{name}.safetensors', which does not fit"):
            load_lora(pipeline, tmp_path / f"{name}.safetensors")
    assert not any("lora" in name for name, _ in pipeline.unet.named_parameters())


def test_a_lora_that_is_missing_or_broken_is_named(mini_model, tmp_path):
    (tmp_path / LORA_FILE).write_bytes(b"not safetensors")
    for lora in (tmp_path, tmp_path / "nowhere", "owner/unheard-of"):
        with pytest.raises(ValueError, match="lora is"):
            load_pipeline(mini_model, lora=lora)

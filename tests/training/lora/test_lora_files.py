"""The LoRA's file: what plain diffusers reads, what comes back, and what is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from support.text_features import text_features
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.lora.adapter import LoraSettings, add_lora, lora_layers
from ubgen_training.lora.lora_files import LORA_FILE, load_lora_into, save_lora


def with_lora(model, rank=2, seed=3, **settings):
    """The model's denoiser with a LoRA whose two factors are both filled."""
    pipeline = load_pipeline(model)
    add_lora(pipeline.denoiser_network, LoraSettings(rank=rank, **settings), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in trained(pipeline.denoiser_network).values():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return pipeline


def trained(network):
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}


@pytest.fixture(scope="module")
def pipeline(tiny_model):
    return with_lora(tiny_model)


def test_plain_diffusers_loads_it_and_predicts_the_same(pipeline, tiny_model, tmp_path):
    from diffusers import StableDiffusionPipeline

    save_lora(pipeline, tmp_path)
    plain = StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None, local_files_only=True)
    plain.load_lora_weights(tmp_path)
    prompt = text_features(pipeline, ["circle"]).detach()
    inputs = (torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor(500), prompt)
    with torch.no_grad():
        torch.testing.assert_close(plain.unet(*inputs).sample, pipeline.denoiser_network(*inputs).sample)


def test_it_is_float32_with_rank_and_alpha_and_layers_in_one_order(tiny_model, tmp_path):
    pipeline = with_lora(tiny_model, rank=4, alpha=2.0)
    file = save_lora(pipeline, tmp_path)
    assert file == tmp_path / LORA_FILE
    assert {value.dtype for value in load_file(file).values()} == {torch.float32}
    assert all(name.startswith("unet.") for name in load_file(file))
    with safe_open(file, framework="pt") as opened:
        settings = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert (settings["unet.r"], settings["unet.lora_alpha"]) == (4, 2.0)
    # peft keeps them as a set, whose order changes from process to process
    assert settings["unet.target_modules"] == sorted(settings["unet.target_modules"])


def test_equal_weights_give_equal_files(tiny_model, tmp_path):
    pipeline = with_lora(tiny_model, rank=4, alpha=2.0)
    files = [save_lora(pipeline, tmp_path / str(number)) for number in range(6)]
    assert len({file.read_bytes() for file in files}) == 1


def test_only_the_writing_rank_writes(pipeline, tmp_path):
    save_lora(pipeline, tmp_path / "other", write=False)
    assert not (tmp_path / "other").exists()


def test_weights_come_back_to_the_last_bit(pipeline, tiny_model, tmp_path):
    save_lora(pipeline, tmp_path)
    other = with_lora(tiny_model, seed=4)
    own, loaded = trained(pipeline.denoiser_network), trained(other.denoiser_network)
    assert not any(torch.equal(own[name], loaded[name]) for name in own)
    load_lora_into(other, tmp_path)
    assert all(torch.equal(own[name], loaded[name]) for name in own)
    assert all(weight.requires_grad for weight in loaded.values()) and lora_layers(other.denoiser_network)


@pytest.mark.parametrize("settings", [{"rank": 3}, {"target_modules": ("to_q",)}], ids=["rank", "layers"])
def test_a_lora_of_other_settings_is_refused_by_the_setting_that_named_it(pipeline, tiny_model, tmp_path, settings):
    save_lora(pipeline, tmp_path)
    other = with_lora(tiny_model, **settings)
    with pytest.raises(ValueError, match=r"^initial_lora is '.*', whose LoRA does not fit the model configured"):
        load_lora_into(other, tmp_path, argument="initial_lora")
    with pytest.raises(ValueError, match=rf"^resume_from_checkpoint is '.*', which holds no {LORA_FILE}"):
        load_lora_into(other, tmp_path / "none")

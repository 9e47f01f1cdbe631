"""What training changes, saved and read back: a LoRA, or the whole denoiser where plain diffusers looks for it."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel

from support.family_models import CASES
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.lora.adapter import LoraSettings, add_lora, train_all_weights
from ubgen_training.lora.lora_files import LORA_FILE
from ubgen_training.lora.trained_weights import (
    DENOISER_FILE,
    load_trained_weights,
    save_plain_pipeline,
    save_trained_weights,
)


def ready(model, method):
    pipeline = load_pipeline(model)
    if method == "lora":
        add_lora(pipeline.denoiser_network, LoraSettings(rank=2), seed=1)
    else:
        train_all_weights(pipeline.denoiser_network)
    return pipeline


def weights(pipeline):
    named = pipeline.denoiser_network.named_parameters()
    return {name: weight.detach().clone() for name, weight in named if weight.requires_grad}


@pytest.mark.parametrize(
    "method, files", [("lora", [LORA_FILE]), ("full", ["unet/config.json", f"unet/{DENOISER_FILE}"])]
)
def test_they_come_back_to_the_last_bit_from_files_of_the_same_names_as_ever(
    random_mini_model, tmp_path, method, files
):
    pipeline = ready(random_mini_model, method)
    with torch.no_grad():
        for weight in pipeline.denoiser_network.parameters():
            weight.add_(0.5 if weight.requires_grad else 0)
    save_trained_weights(pipeline, method, tmp_path, write=False)
    assert not list(tmp_path.iterdir())
    save_trained_weights(pipeline, method, tmp_path)
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()) == sorted(files)
    other = ready(random_mini_model, method)
    before = weights(other)
    load_trained_weights(other, method, tmp_path)
    after, expected = weights(other), weights(pipeline)
    assert all(torch.equal(after[name], expected[name]) for name in expected)
    assert not any(torch.equal(after[name], before[name]) for name in expected)


def test_plain_diffusers_reads_a_whole_denoiser(random_mini_model, tmp_path):
    pipeline = ready(random_mini_model, "full")
    save_trained_weights(pipeline, "full", tmp_path)
    plain = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), pipeline.unet.parameters(), strict=True))


def test_weights_that_are_not_there_or_of_another_layout_are_refused(random_mini_model, tmp_path):
    pipeline = ready(random_mini_model, "full")
    with pytest.raises(ValueError, match=rf"unet holds no {DENOISER_FILE}; resume with the train_method"):
        load_trained_weights(pipeline, "full", tmp_path)
    other = ready(random_mini_model, "full")
    config = {**other.unet.config, "block_out_channels": (16, 32), "norm_num_groups": 8}
    other.unet = UNet2DConditionModel.from_config(config)
    save_trained_weights(other, "full", tmp_path)
    with pytest.raises(ValueError, match=r"does not fit the model configured: .* weights differ, first '"):
        load_trained_weights(pipeline, "full", tmp_path)


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux", "z-image", "sana", "pixart-sigma"])
def test_a_whole_model_is_diffusers_own_pipeline(name, tmp_path):
    case = CASES[name]
    save_plain_pipeline(case.pipeline, tmp_path)
    plain = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(plain) is type(case.stock) and not list(tmp_path.glob("*.py"))
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == type(plain).__name__ and "_name_or_path" not in index
    # numbers and switches of the pipeline itself stay
    own = {key: value for key, value in case.stock.config.items() if not key.startswith("_")}
    assert {key: plain.config[key] for key in own} == own
    weights = case.stock.transformer if hasattr(case.stock, "transformer") else case.stock.unet
    there = plain.transformer if hasattr(plain, "transformer") else plain.unet
    assert all(torch.equal(a, b) for a, b in zip(weights.parameters(), there.parameters(), strict=True))

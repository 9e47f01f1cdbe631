"""Weights of 8 bits, from the command to the drawn row, and what cannot be quantized."""

import json

import numpy as np
import pytest
import torch
from datasets import load_dataset

from support.family_models import QUICK, TinyModels
from ubgen_pipeline.generation import generate, regenerate
from ubgen_pipeline.mini import mini_lora_path
from ubgen_pipeline.models import quantization
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.models.quantization import quantization_config
from ubgen_pipeline.pipeline import UbGenPipeline

with_torchao = pytest.mark.quantization


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    return str(TinyModels(tmp_path_factory.mktemp("models")).folder("sd3"))


@with_torchao
def test_linear_layers_of_denoiser_and_text_encoders_have_8_bits_and_images_are_close(sd3):
    plain = load_pipeline(sd3, torch_dtype=torch.bfloat16)
    pipeline = load_pipeline(sd3, torch_dtype=torch.bfloat16, quantization="int8")
    for part in ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3"):
        layers = [module for module in getattr(pipeline, part).modules() if type(module) is torch.nn.Linear]
        quantized = [layer for layer in layers if type(layer.weight).__name__ == "Int8Tensor"]
        # transformers leaves a model's last projection as it is
        assert len(layers) > 1 and len(layers) - len(quantized) <= 1, part
    assert all(type(weight) is torch.nn.Parameter for weight in pipeline.vae.parameters())
    assert pipeline.transformer.dtype == torch.bfloat16
    images = [each(["circle", "star"], seed=3, output_type="np", **QUICK).images for each in (plain, pipeline)]
    difference = np.abs(images[0] - images[1])
    assert 0 < difference.mean() < 0.05 * images[0].std()


@with_torchao
def test_a_dataset_is_begun_finished_and_drawn_again_with_8_bits(sd3, tmp_path, capsys):
    size = ["--num-inference-steps", "2", "--height", "32", "--width", "32"]
    command = ["--model", sd3, "--class-names", "circle", "star", "--samples-per-class", "2", *size]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    sharded = [*command, "--samples-per-shard", "2"]
    assert generate.main([*sharded, "--quantization", "int8", "--output-dir", str(whole)]) == 0
    recorded = json.loads((whole / ".ubgen" / "manifest.json").read_text())["settings"]
    assert (recorded["quantization"], recorded["dtype"]) == ("int8", "bfloat16") and "torchao" in recorded["versions"]

    # what a shorter run left is finished without saying so again, and refused with other weights
    again = [*sharded, "--output-dir", str(resumed)]
    assert generate.main([*again, "--quantization", "int8"]) == 0
    lost = resumed / "data" / "train-00001-of-00002.parquet"
    lost.unlink()
    (resumed / ".ubgen" / "shard-00001.json").unlink()
    assert generate.main([*again, "--quantization", "none"]) == 2
    assert "quantization" in capsys.readouterr().err
    assert generate.main(again) == 0
    assert lost.read_bytes() == (whole / lost.relative_to(resumed)).read_bytes()

    image = tmp_path / "again.png"
    assert regenerate.main([str(whole), "--index", "3", "--model", sd3, "--output", str(image)]) == 0
    assert load_dataset(str(whole), split="train").num_rows == 4


@with_torchao
def test_a_lora_stays_beside_weights_of_8_bits():
    settings = {"seed": 3, "num_inference_steps": 2, "output_type": "np"}
    images = {}
    for lora in (None, mini_lora_path()):
        for bits in ("none", "int8"):
            pipeline = load_pipeline("mini", lora=lora, torch_dtype=torch.bfloat16, quantization=bits)
            images[lora is not None, bits] = pipeline(["circle", "star"], **settings).images
    changed = np.abs(images[True, "int8"] - images[False, "int8"]).mean()
    rounded = np.abs(images[True, "int8"] - images[True, "none"]).mean()
    assert rounded < 0.2 * changed


def test_what_cannot_be_quantized_is_refused_by_name(monkeypatch, capsys, tmp_path):
    assert quantization_config("none", UbGenPipeline) is None
    with pytest.raises(ValueError, match="quantization is 'int2'; choose one of none, int8, nf4"):
        quantization_config("int2", UbGenPipeline)
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"torchao is not installed; run `pip install 'ubgen\[quantization\]'`"):
        quantization_config("int8", UbGenPipeline)
    monkeypatch.setattr(quantization, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'nf4', which needs a GPU; give int8"):
        quantization_config("nf4", UbGenPipeline)

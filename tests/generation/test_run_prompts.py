"""Runs that share a folder of prompts' features read what the other has written, and nothing of another model."""

import dataclasses

import pytest
import torch

from ubgen_pipeline.generation.row_drawer import RowSettings
from ubgen_pipeline.generation.run_prompts import run_prompt_cache
from ubgen_pipeline.generation.settings import GenerateSettings
from ubgen_pipeline.models.loras import as_loras
from ubgen_pipeline.models.sources import GeneratorSource

# the tiny model's scheduler is older than diffusers wishes; commands keep such notes in their log
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*steps_offset:FutureWarning")


def _rows(model, **changes):
    settings = GenerateSettings(classes=["circle"], output_dir="unused", model=model, num_inference_steps=2)
    rows = RowSettings.of_run(settings, GeneratorSource(model, None, loras=as_loras(None, argument="lora")), None)
    return dataclasses.replace(rows, **changes)


def test_settings_of_a_run_become_those_of_its_rows(tiny_model):
    rows = _rows(tiny_model)
    assert (rows.source.model, rows.num_inference_steps, rows.quantization) == (tiny_model, 2, "none")
    assert rows.arguments()["num_inference_steps"] == 2 and not rows.records_attention


def test_a_folder_is_shared_by_runs_whose_prompts_are_encoded_alike(tiny_model, tmp_path):
    rows = _rows(tiny_model)
    arguments = (str(tmp_path / "kept"), None, "float32", "cpu", "none")
    pipeline = rows.load("cpu", "float32")

    def kept_files():
        return len(list((tmp_path / "kept").rglob("*.safetensors")))

    (encoded,) = run_prompt_cache(rows, *arguments).rows(pipeline, ["a circle"])
    assert kept_files() == 1
    pipeline.text_encoder = None  # what is kept is read, so nothing encodes
    (read,) = run_prompt_cache(rows, *arguments).rows(pipeline, ["a circle"])
    assert set(read.tensors) == set(encoded.tensors)
    assert all(torch.equal(read[name], encoded[name]) for name in encoded.tensors)
    pipeline = rows.load("cpu", "float32")
    run_prompt_cache(dataclasses.replace(rows, quantization="int8"), *arguments).rows(pipeline, ["a circle"])
    assert kept_files() == 2
    run_prompt_cache(rows, None, *arguments[1:]).rows(pipeline, ["a star"])
    assert kept_files() == 2

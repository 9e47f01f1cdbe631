"""The registry of families: one line leads from a model's class to the file that serves it."""

import json

import diffusers
import pytest

from ubgen_pipeline.family import GUIDANCE_KINDS, Family
from ubgen_pipeline.models.families import FAMILIES, denoiser_config, family_of, family_of_model
from ubgen_pipeline.models.loading import load_pipeline


@pytest.mark.parametrize("name", FAMILIES)
def test_the_line_names_a_pipeline_of_ours_over_diffusers_own(name):
    line = FAMILIES[name]
    ours, stock = line.pipeline_class(), getattr(diffusers, line.stock_names[0])
    assert issubclass(ours, Family) and issubclass(ours, stock) and ours.__name__ == line.class_name
    assert all(hasattr(diffusers, stock_name) for stock_name in line.stock_names)
    # a property is of the loaded configuration
    assert isinstance(ours.guidance, property) or ours.guidance in GUIDANCE_KINDS
    assert ours.denoiser_part in ("unet", "transformer") and ours.lora_targets and ours.text_encoder_parts
    assert ours.text_position in (None, "first", "last")
    assert ours.default_gpu_dtype in ("float16", "bfloat16")


@pytest.mark.parametrize("name", FAMILIES)
def test_both_classes_of_a_family_lead_to_it(name):
    line = FAMILIES[name]
    assert {family_of(class_name) for class_name in (line.class_name, *line.stock_names)} == {name}


def test_no_class_belongs_to_two_families_and_a_foreign_one_to_none():
    names = [class_name for line in FAMILIES.values() for class_name in (line.class_name, *line.stock_names)]
    assert len(names) == len(set(names))
    assert family_of("KandinskyPipeline") is None


def test_a_pipeline_that_starts_from_images_is_of_the_same_family():
    assert family_of("StableDiffusionImg2ImgPipeline") == "sd" and family_of("FluxImg2ImgPipeline") == "flux"


@pytest.mark.parametrize("named", ["StableDiffusionXLPipeline", ["pipeline_sdxl", "UbGenSDXLPipeline"]])
def test_the_index_alone_decides(named, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": named}))
    assert family_of_model(str(tmp_path)) == "sdxl"
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text('{"in_channels": 4}')
    assert denoiser_config(str(tmp_path)) == {"in_channels": 4}


def test_an_unknown_family_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(ValueError, match=r"names the class KandinskyPipeline; known are .*sdxl.*docs/extend\.md"):
        load_pipeline(tmp_path)

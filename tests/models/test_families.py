"""The registry of families: one line leads from a model's class to the file that serves it."""

import diffusers
import pytest

from ubgen_pipeline.family import GUIDANCE_KINDS, Family
from ubgen_pipeline.models.families import FAMILIES, family_of


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

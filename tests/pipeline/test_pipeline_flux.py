"""What is FLUX.1's alone: dev reads the guidance, schnell takes none, and both text encoders are needed."""

import pytest

from support.family_models import CASES
from ubgen_pipeline.models.families import FAMILIES

DEV, SCHNELL = CASES["flux"], CASES["flux schnell"]


def test_defaults_follow_the_configuration():
    found = [
        (case.pipeline.guidance, case.pipeline.default_num_inference_steps, case.pipeline.default_guidance_scale)
        for case in (DEV, SCHNELL)
    ]
    assert found == [("embedded", 28, 3.5), ("none", 4, 1.0)]


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
def test_a_missing_text_encoder_is_named(name):
    kind = FAMILIES["flux"].pipeline_class()
    assert f"has no {name}" in kind(**{**DEV.stock.components, name: None}).family_misfit()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooled_projection_dim": 64}, "64 pooled features beside CLIP's 16"),
        ({"joint_attention_dim": 24}, "text features 24 wide beside a T5 of 32"),
    ],
)
def test_parts_of_other_widths_are_named(settings, message):
    pipeline = DEV.ours(DEV.build())
    pipeline.transformer.register_to_config(**settings)
    assert message in pipeline.family_misfit()


def test_only_dev_has_a_licence_note():
    notes = [case.pipeline.licence_note_of(case.pipeline.transformer.config) for case in (DEV, SCHNELL)]
    assert "dev" in notes[0] and notes[1] is None

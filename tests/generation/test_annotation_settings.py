"""What to annotate: every setting of the masks is there, on top of the model's own defaults."""

import dataclasses

import pytest

from ubgen_pipeline.generation.annotation_settings import AnnotationSettings
from ubgen_pipeline.mask_settings import ANNOTATIONS, PAPER, SMALL


def test_there_is_a_field_for_every_mask_setting(mini_model, tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (tmp_path / "unet" / "config.json").write_text('{"down_block_types": ["A", "B", "C", "D"]}')
    names = {field.name for field in dataclasses.fields(AnnotationSettings)} - {"annotations"}
    assert names == {f"mask_{field.name}" for field in dataclasses.fields(PAPER)}
    settings = AnnotationSettings(["mask"], mask_threshold=0.9, mask_class_prompt=False, mask_cross_levels=[0, 1])
    assert settings.mask_settings(tmp_path) == dataclasses.replace(
        PAPER, threshold=0.9, class_prompt=False, cross_levels=(0, 1)
    )
    assert AnnotationSettings(["mask"]).mask_settings(mini_model) == SMALL


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"annotations": ["maks"]}, "annotations holds 'maks'"),
        ({"mask_threshold": 0.5}, "mask_threshold is given without annotations"),
        ({"mask_self_power": 0}, "mask_self_power is given without annotations"),
    ],
)
def test_what_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AnnotationSettings(**settings).wanted_annotations()


def test_annotations_have_a_fixed_order():
    assert AnnotationSettings(list(reversed(ANNOTATIONS))).wanted_annotations() == ANNOTATIONS
    assert AnnotationSettings().wanted_annotations() == ()


def test_a_mask_setting_out_of_range_is_named(mini_model):
    with pytest.raises(ValueError, match="threshold is 2"):
        AnnotationSettings(["mask"], mask_threshold=2.0).mask_settings(mini_model)

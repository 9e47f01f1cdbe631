"""Settings of the training of segmenters: what is refused, and what a resumed run may change."""

import pytest

from ubgen_training.segmenter.segmenter_config import SegmenterConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"self_training_rounds": -1}, "self_training_rounds is -1"),
        ({"min_crop_scale": 0.0}, r"min_crop_scale is 0\.0; choose from 0\.01 to 1"),
        ({"colour_change": 1.5}, r"colour_change is 1\.5"),
        ({"self_training_threshold": -0.1}, r"self_training_threshold is -0\.1"),
        ({"seed": 2**32}, "the range of numpy's"),
        ({"push_to_hub": True}, "push_to_hub is not supported"),
    ],
)
def test_what_is_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        SegmenterConfig(dataset="x", use_cpu=True, **settings)


def test_a_resumed_run_shares_the_data_and_the_views():
    settings = SegmenterConfig(dataset="x", test_dataset="y", use_cpu=True).settings_to_resume_with()
    assert {"dataset", "split", "image_size", "min_crop_scale", "colour_change", "max_steps", "seed"} <= set(settings)
    assert not {"output_dir", "test_dataset", "test_split", "model", "logging_steps"} & set(settings)

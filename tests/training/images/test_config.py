"""Settings of every training on labelled images."""

import pytest

from ubgen_training.images.config import ImageTrainingConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": None}, "dataset is not given"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0"),
        ({"shuffle_buffer": 0}, "shuffle_buffer is 0"),
        ({"horizontal_flip": 1.5}, r"horizontal_flip is 1\.5; choose one in \[0, 1\]"),
        ({"streaming": True}, "the number of rows is not known; give max_steps"),
        ({"push_to_hub": True}, "push_to_hub is not supported"),
    ],
)
def test_what_is_out_of_range(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ImageTrainingConfig(**{"dataset": "x", "use_cpu": True, "output_dir": str(tmp_path), **settings})


def test_the_dataset_may_lie_elsewhere_when_a_run_resumes(tmp_path):
    settings = ImageTrainingConfig(dataset="x", use_cpu=True, output_dir=str(tmp_path)).settings_to_resume_with()
    assert {"split", "streaming", "shuffle_buffer", "horizontal_flip", "seed"} <= set(settings)
    assert not {"dataset", "revision", "output_dir", "report_to"} & set(settings)

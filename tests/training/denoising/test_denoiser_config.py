"""Settings of denoising training: what a run may change when it resumes, and what is refused."""

import pytest

from ubgen_training.denoising.denoiser_config import DenoiserConfig, LatentTrainingConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 0}, "lora_rank is 0; choose 1 or more"),
        ({"average_decay": 1.0}, r"average_decay is 1\.0"),
        ({"average_decay": -0.1}, r"average_decay is -0\.1"),
        ({"train_method": "dora"}, "train_method is 'dora'; choose one of lora, full, scratch"),
        ({"weighting": "snr5"}, "weighting is 'snr5'"),
        ({"target": "epsilon"}, "target is 'epsilon'"),
        ({"empty_prompt_share": 2.0}, r"empty_prompt_share is 2\.0"),
        ({"push_to_hub": True}, "push_to_hub is not supported"),
    ],
)
def test_what_is_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        DenoiserConfig(dataset="x", use_cpu=True, **settings)


def test_a_resumed_run_shares_what_is_computed_and_no_paths():
    settings = DenoiserConfig(dataset="x", use_cpu=True, output_dir="here").settings_to_resume_with()
    assert {"lora_rank", "weighting", "target", "empty_prompt_share", "seed", "horizontal_flip"} <= set(settings)
    assert not {"dataset", "output_dir", "model_name_or_path", "export_average", "logging_steps"} & set(settings)
    assert set(LatentTrainingConfig(dataset="x", use_cpu=True).settings_to_resume_with()) < set(settings)

"""Settings that both reward trainings share: defaults, what is refused, and what a resumed run may change."""

import pytest

from ubgen_training.reward_training.config import FREE_ON_RESUME, SamplerConfig


def config(**settings):
    return SamplerConfig(**{"output_dir": "unused", "use_cpu": True, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0; choose 1 or more"),
        ({"class_repeats": 0}, "class_repeats is 0; choose 1 or more"),
        ({"lora_rank": 0}, "lora_rank is 0; choose 1 or more"),
        ({"lora_alpha": 0.0}, "lora_alpha is 0.0; choose a number above 0"),
        ({"lora_alpha": -4.0}, "lora_alpha is -4.0; choose a number above 0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0; choose 1 or more"),
        ({"num_sample_classes": 0}, "num_sample_classes is 0; choose 1 or more"),
        ({"num_samples_per_class": 0}, "num_samples_per_class is 0; choose 1 or more"),
        ({"sample_steps": -1}, "sample_steps is -1; choose 0 or more"),
        ({"heldout_steps": -1}, "heldout_steps is -1; choose 0 or more"),
        ({"alarm_window": 1}, "alarm_window is 1"),
        ({"lora_average_decay": 1.0}, "lora_average_decay is 1.0"),
        ({"heldout_reward_funcs": ["quality"]}, "heldout_reward_funcs"),
        ({"seed": -1}, "seed is -1; choose one in"),
        ({"seed": 2**32}, "seed is 4294967296; choose one in"),
        ({"train_method": "dora"}, "train_method is 'dora'"),
        ({"report_to": ["no_such_tracker"]}, r"report_to holds \['no_such_tracker'\], unknown or not installed"),
        ({"hub_token": "secret"}, "hub_token is given; run `hf auth login`"),
        ({"push_to_hub": True}, "push_to_hub is set without hub_model_id"),
        ({"push_to_hub": True, "hub_model_id": "lora"}, "hub_model_id is 'lora'; give the owner too"),
        (
            {"push_to_hub": True, "hub_model_id": "me/lora", "hub_strategy": "checkpoint"},
            "hub_strategy is 'checkpoint'; choose one of every_save, end",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        config(**settings)
    assert "secret" not in str(error.value)


def test_a_quality_reward_weighs_a_tenth_unless_weights_are_given():
    assert config().reward_weights == [1.0, 0.1]
    assert config(reward_funcs=["quality", "jpeg_size"]).reward_weights == [0.1, 1.0]
    assert config(reward_weights=[0.5, 2.0]).reward_weights == [0.5, 2.0]


def test_images_of_an_update_are_those_of_all_its_batches():
    assert config(per_device_train_batch_size=6, gradient_accumulation_steps=5).images_per_update == 30


def test_a_push_that_can_work_passes():
    assert config(push_to_hub=True, hub_model_id="me/lora", hub_strategy="end").hub_model_id == "me/lora"


def test_a_resumed_run_must_share_what_is_computed_and_nothing_else():
    shared = config().settings_to_resume_with()
    assert {"learning_rate", "lora_rank", "guidance_scale", "reward_funcs", "seed", "variety_memory"} <= set(shared)
    assert not FREE_ON_RESUME & set(shared)
    changed = config(output_dir="elsewhere", logging_steps=7, classes="imagenet1k", heldout_steps=3)
    assert changed.settings_to_resume_with() == shared
    assert config(lora_rank=4).settings_to_resume_with() != shared


def test_what_may_change_is_a_setting():
    assert {name for name in FREE_ON_RESUME if not hasattr(config(), name)} == set()

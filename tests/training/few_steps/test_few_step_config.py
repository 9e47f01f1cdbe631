"""Settings of distillation into a few steps: what is refused, and what a resumed run may change."""

import pytest

from ubgen_training.few_steps.few_step_config import LAYERS, FewStepConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_segments": 7}, "num_segments is 7; choose a divisor of num_teacher_steps, which is 48"),
        ({"num_segments": 0}, "num_segments is 0"),
        ({"num_teacher_steps": 0}, "num_teacher_steps is 0"),
        ({"guidance_scale": 0.5}, r"guidance_scale is 0\.5"),
        ({"huber_scale": 0.0}, r"huber_scale is 0\.0"),
    ],
)
def test_what_is_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        FewStepConfig(dataset="x", use_cpu=True, **settings)


def test_the_teachers_lora_may_lie_elsewhere_when_a_run_resumes():
    config = FewStepConfig(dataset="x", use_cpu=True, lora="there", initial_lora="here")
    settings = config.settings_to_resume_with()
    assert not {"lora", "lora_revision", "initial_lora"} & set(settings)
    assert settings["num_segments"] == 8 and settings["lora_target_modules"] == list(LAYERS)

"""Settings of textual inversion: what is refused, and what a resumed run may change."""

import pytest

from ubgen_training.textual_inversion.textual_inversion_config import TextualInversionConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_vectors": 0}, "num_vectors is 0"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_samples": -1}, "num_samples is -1"),
        ({"templates": ["{token}", "a photo"]}, r"templates holds 'a photo'; each must hold \{token\}"),
        ({"templates": []}, "templates holds ''"),
        ({"templates": ["{token} {token:d}"]}, r"\{token\} is the only placeholder, without a format"),
        ({"templates": ["{token} of {name}"]}, r"\{token\} is the only placeholder, without a format"),
        ({"seed": -1}, "the range of numpy's"),
        ({"push_to_hub": True}, "push_to_hub is not supported"),
    ],
)
def test_what_is_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        TextualInversionConfig(use_cpu=True, **settings)


def test_a_resumed_run_shares_images_token_and_templates():
    settings = TextualInversionConfig(use_cpu=True).settings_to_resume_with()
    assert {"images", "token", "initial_word", "num_vectors", "templates", "mirror_images", "seed"} <= set(settings)
    assert not {"output_dir", "model_name_or_path", "num_samples", "guidance_scale"} & set(settings)

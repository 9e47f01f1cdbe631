"""What visitors may ask for; needs no Gradio."""

import pytest
from request_limits import MAX_SEED, DrawRequest, ModelDefaults, check_request
from space_settings import SpaceSettings

GOOD = {
    "class_choice": "star",
    "variant_choice": ["tuned", "base"],
    "num_samples": 4,
    "seed": 7,
    "num_inference_steps": 20.0,
    "guidance_scale": 2,
    "annotate": True,
}
DEFAULTS = ModelDefaults(20, 2.0, makes_annotations=True)


def check(defaults=DEFAULTS, **changed):
    settings = SpaceSettings()
    return check_request(settings, settings.class_choices(), defaults, **{**GOOD, **changed})


def test_a_request_within_the_limits():
    assert check() == DrawRequest("star", ("base", "tuned"), 4, 7, 20, 2.0, True)
    assert check(variant_choice=["tuned"]).num_images == 4 and check().num_images == 8
    assert check(seed=MAX_SEED).seed == MAX_SEED == 2**53 - 1


@pytest.mark.parametrize(
    ("control", "values"),
    {
        "class_choice": ["<script>", None, ["star"], 0],
        "variant_choice": ["base", None, {}, "", [], ["second"], ["base", "<script>"], [["base"]], [0]],
        "num_samples": [0, 9, 10**400, 1.5, None, "4", float("nan"), True, float("inf")],
        "seed": [-1, MAX_SEED + 1, 0.5, "0", None],
        "num_inference_steps": [0, 51, -3, [20]],
        "annotate": [1, "true", None, [True]],
        "guidance_scale": [-0.1, 20.5, float("nan"), float("inf"), None, "2", True],
    }.items(),
)
def test_everything_else_is_refused_without_repeating_it(control, values):
    for value in values:
        with pytest.raises(ValueError) as caught:
            check(**{control: value})
        assert "script" not in str(caught.value)


def test_tuned_images_need_a_lora():
    settings = SpaceSettings(model="org/model", classes="voc")
    assert settings.lora == ()
    with pytest.raises(ValueError, match="choose among base"):
        check_request(settings, settings.class_choices(), DEFAULTS, **{**GOOD, "class_choice": "cat"})


def test_what_the_model_cannot_is_not_asked_of_it():
    """The page hides those controls, and sends their values."""
    distilled = ModelDefaults(4, None, makes_annotations=False)
    request = check(distilled)
    assert request.guidance_scale is None and request.annotate is False
    assert check(distilled, guidance_scale="anything") == request

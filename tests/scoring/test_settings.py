"""Which scores are asked for, by which models, and what the manifest says of them."""

import pytest

from support.tiny_clip import build_tiny_clip
from ubgen_pipeline.scoring.settings import CLIP_MODEL, SCORES, ScoreSettings


def test_scores_have_a_fixed_order():
    assert ScoreSettings(["safety", "clip"]).wanted_scores() == ("clip", "safety")
    assert ScoreSettings(list(reversed(SCORES))).wanted_scores() == SCORES and ScoreSettings().wanted_scores() == ()


def test_the_clip_is_that_of_the_generator_unless_one_is_named():
    assert ScoreSettings().clip_for("mini-flow") == "mini" and ScoreSettings().clip_for("org/sd") == CLIP_MODEL
    assert ScoreSettings(clip_model="x").clip_for("mini") == "x"


def test_facts_say_how_each_score_is_made():
    assert ScoreSettings(["clip", "duplicates", "safety"]).score_facts("mini") == {
        "clip": {"model": "mini", "fingerprint": "mini", "template": "a photo of a {name}"},
        "duplicates": {},
        "safety": {},
    }
    assert ScoreSettings().score_facts("mini") == {}


def test_facts_hold_no_path_of_this_machine(tmp_path):
    folder = build_tiny_clip(tmp_path / "some" / "clip")
    for name in (folder, f"open_clip:local-dir:{folder}", f"mini:{folder}"):
        settings = ScoreSettings(scores=["clip", "safety"], clip_model=name, safety_checker=folder)
        facts = settings.score_facts("mini")
        assert str(tmp_path) not in str(facts) and facts["clip"]["model"].endswith("clip")
        assert len(facts["clip"]["fingerprint"].removeprefix("sha256:")) == 64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scores": ["beauty"]}, "scores holds 'beauty'"),
        ({"clip_model": "mini"}, "clip_model is given without"),
        ({"scores": ["clip"], "safety_checker": "x"}, "safety_checker is given without"),
        ({"scores": ["duplicates"], "clip_template": "{name}"}, "clip_template is given without"),
        ({"scores": ["clip"], "clip_template": "photo"}, "clip_template is 'photo'"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        ScoreSettings(**settings).wanted_scores()

"""What the Space's operator sets."""

import re
from pathlib import Path

import pytest
import yaml
from space_settings import SpaceSettings

from support import ROOT


def test_settings_come_from_the_environment():
    assert SpaceSettings.from_environment({}) == SpaceSettings()
    assert Path(*SpaceSettings().lora).is_file()
    settings = SpaceSettings.from_environment(
        {"UBGEN_MODEL": "org/model", "UBGEN_DATASETS": "a/b, c/d", "UBGEN_MAX_STEPS": "12", "UBGEN_LORA": " "}
    )
    assert settings == SpaceSettings(model="org/model", datasets=("a/b", "c/d"), max_steps=12)
    assert len(settings.class_choices()) == 1000
    # the shipped LoRA is not this model's
    flow = SpaceSettings(model="mini-flow")
    assert flow.is_mini and flow.lora == () and len(flow.class_choices()) == 10


WRONG = [("MAX_STEPS", "0"), ("MAX_STEPS", "many"), ("MAX_QUEUE", "-1"), ("MAX_GPU_SECONDS", "0")]
WRONG += [("REPORT", "/no/such.json"), ("LORA", "a,b,c"), ("LORA", "a/b:0"), ("LORA", "a/b:x")]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_variable_is_named(name, value):
    with pytest.raises(ValueError, match=f"UBGEN_{name} (is|names)"):
        SpaceSettings.from_environment({f"UBGEN_{name}": value})


def test_two_loras_are_compared_under_names_of_their_own(tmp_path):
    assert SpaceSettings().variants == {"base": "Base", "tuned": "Tuned"}
    assert SpaceSettings(model="org/model").variants == {"base": "Base"}
    two = SpaceSettings.from_environment({"UBGEN_LORA": "org/a:0.5, org/b", "UBGEN_VARIANT": "fp16"})
    assert two.variants == {"base": "Base", "tuned": "org/a:0.5", "second": "org/b"} and two.variant == "fp16"
    for name in ("x", "y"):
        (tmp_path / name / "lora").mkdir(parents=True)
    same = SpaceSettings(lora=tuple(str(tmp_path / name / "lora") for name in ("x", "y")))
    assert list(same.variants.values()) == ["Base", "lora (1)", "lora (2)"]


def test_folders_are_shown_by_their_last_part(tmp_path):
    first, second = tmp_path / "x" / "shapes", tmp_path / "y" / "shapes"
    first.mkdir(parents=True), second.mkdir(parents=True)
    choices = SpaceSettings(datasets=(str(first), str(second), "org/name")).dataset_choices()
    assert choices == {"shapes": str(first), "shapes_": str(second), "org/name": "org/name"}
    assert SpaceSettings(model=str(first)).shown_model == "shapes"


def test_the_space_card_says_what_the_hub_needs_and_every_variable():
    text = (ROOT / "space" / "README.md").read_text("utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["sdk"] == "gradio" and (ROOT / "space" / front["app_file"]).is_file()
    assert len(front["short_description"]) <= 60
    requirements = dict(
        re.match(r"([\w-]+)(.*)", line).groups()
        for line in (ROOT / "space" / "requirements.txt").read_text("utf-8").splitlines()
    )
    assert requirements.keys() == {"ubgen", "gradio"}
    assert front["sdk_version"].startswith(requirements["gradio"].removeprefix(">="))
    named = set(re.findall(r"^\| `UBGEN_(\w+)`", text, re.MULTILINE))
    assert named == {name.upper() for name in SpaceSettings.__dataclass_fields__}

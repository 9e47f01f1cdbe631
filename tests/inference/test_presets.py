"""Lossy presets: applied, told, recorded, drawn again, and refused beside what they would spoil."""

import dataclasses
import json
import re

import pytest

from support import ROOT
from support.random_loras import save_random_lora
from ubgen_pipeline.generation.generate import generate_dataset
from ubgen_pipeline.generation.regenerate import largest_difference, regenerate
from ubgen_pipeline.generation.row_lookup import find_row, stored_image
from ubgen_pipeline.generation.settings import GenerateSettings
from ubgen_pipeline.inference.presets import FEW_STEP_PRESETS, PRESETS, describe

NAMES = ["circle", "star"]


@pytest.fixture(scope="module")
def loras(random_mini_model, tmp_path_factory):
    """Two that both change images."""
    return [save_random_lora(random_mini_model, tmp_path_factory.mktemp("lora"), seed=seed) for seed in (0, 1)]


def _generate(model, folder, **settings):
    settings = {"samples_per_class": 2, "batch_size": 2, "threads": 1, **settings}
    return generate_dataset(NAMES, folder, model=str(model), **settings)


def _manifest(folder):
    return json.loads((folder / ".ubgen" / "manifest.json").read_text())["settings"]


def test_a_preset_is_told_recorded_and_drawn_again(random_mini_model, tmp_path, capsys):
    steps = {"num_inference_steps": 4}
    exact = _generate(random_mini_model, tmp_path / "exact", **steps)
    assert "preset" not in exact.column_names and "preset" not in _manifest(tmp_path / "exact")
    rows = _generate(random_mini_model, tmp_path / "d", preset="deep-cache", **steps)
    assert describe("deep-cache") in capsys.readouterr().err
    assert set(rows["preset"]) == {"deep-cache"} and set(rows["few_step_lora"]) == {None}
    assert largest_difference(rows[0]["image"], exact[0]["image"]) > 5
    manifest = _manifest(tmp_path / "d")
    assert (manifest["preset"], manifest["deep_features_every"]) == ("deep-cache", 3)
    card = (tmp_path / "d" / "README.md").read_text()
    assert "**Drawn with a lossy shortcut,** `deep-cache`" in card and "| `preset` | the lossy shortcut" in card
    assert "lossy" not in (tmp_path / "exact" / "README.md").read_text()
    row = find_row(str(tmp_path / "d"), 3)
    assert largest_difference(regenerate(row, model=str(random_mini_model)), stored_image(row)) == 0
    with pytest.raises(ValueError, match="preset"):
        _generate(random_mini_model, tmp_path / "d", **steps)


def test_a_preset_sets_scheduler_and_steps(random_mini_model, tmp_path):
    rows = _generate(random_mini_model, tmp_path / "d", preset="unipc-10")
    assert set(rows["num_inference_steps"]) == {10} and set(rows["scheduler"]) == {"UniPCMultistepScheduler"}
    row = find_row(str(tmp_path / "d"), 1)
    assert largest_difference(regenerate(row, model=str(random_mini_model)), stored_image(row)) == 0


@pytest.mark.parametrize("name", FEW_STEP_PRESETS)
def test_a_lora_for_few_steps_joins_the_other(random_mini_model, loras, tmp_path, name):
    first, second = map(str, loras)
    rows = _generate(random_mini_model, tmp_path / "d", preset=name, lora=first, few_step_lora=second)
    assert set(rows["few_step_lora"]) == {loras[1].name} and set(rows["guidance_scale"]) == {1.0}
    assert len(_manifest(tmp_path / "d")["few_step_lora"].removeprefix("sha256:")) == 64
    row = find_row(str(tmp_path / "d"), 2)
    with pytest.raises(ValueError, match="say with few_step_lora where it lies now"):
        regenerate(row, model=str(random_mini_model), lora=first)
    with pytest.raises(ValueError, match=r"few_step_lora is .* not the one that drew the row"):
        regenerate(row, model=str(random_mini_model), lora=first, few_step_lora=first)
    again = regenerate(row, model=str(random_mini_model), lora=first, few_step_lora=second)
    assert largest_difference(again, stored_image(row)) == 0
    # the noise that LCM adds between its steps is each sample's own, not the batch's
    alone = _generate(random_mini_model, tmp_path / "one", preset=name, lora=first, few_step_lora=second, batch_size=1)
    assert largest_difference(alone[3]["image"], rows[3]["image"]) <= 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "fast"}, "preset is 'fast'; choose one of guidance-cutoff"),
        ({"preset": "unipc-10", "num_inference_steps": 20}, "num_inference_steps is 20 beside preset 'unipc-10'"),
        ({"preset": "lcm-4"}, "few_step_lora is None, and preset 'lcm-4' needs one"),
        ({"preset": "unipc-10", "few_step_lora": "x"}, "preset 'unipc-10' takes none"),
        ({"few_step_lora": "x"}, "few_step_lora is given without a preset"),
        ({"preset": "deep-cache", "compile": "on"}, "compile is on, which preset 'deep-cache' does not work with"),
        ({"preset": "deep-cache", "annotations": ["mask"]}, "annotations need the attention of every step"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GenerateSettings(class_names=NAMES, **settings)


def test_settings_handed_to_a_worker_stay_as_they_are():
    settings = GenerateSettings(class_names=NAMES, preset="dpm-20")
    assert GenerateSettings(**dataclasses.asdict(settings)) == settings and settings.num_inference_steps == 20


def test_a_preset_without_skipped_layers_takes_annotations(random_mini_model, tmp_path):
    rows = _generate(
        random_mini_model, tmp_path / "d", preset="guidance-cutoff", num_inference_steps=3, annotations=["mask"]
    )
    assert rows[0]["mask"].size == (64, 64) and rows[0]["preset"] == "guidance-cutoff"


def test_a_preset_says_what_it_does_and_no_result_of_a_measurement():
    text = (ROOT / "ubgen_pipeline" / "inference" / "presets.py").read_text(encoding="utf-8")
    assert not re.search(r"accuracy|FID|PSNR|\bdB\b|times as fast", text)
    for name, preset in PRESETS.items():
        assert preset.about in describe(name) and describe(name).startswith(f"preset {name} is lossy: ")

"""Lossy presets: applied, told, recorded, drawn again, and refused beside what they would spoil."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from benchmarks.lossy_presets import main
from support import ROOT
from ubgen_pipeline.generation.generate import generate_dataset
from ubgen_pipeline.generation.regenerate import largest_difference, regenerate
from ubgen_pipeline.generation.row_lookup import find_row, stored_image
from ubgen_pipeline.generation.settings import GenerateSettings
from ubgen_pipeline.inference.prepared_pipeline import prepare_pipeline
from ubgen_pipeline.inference.presets import FEW_STEP_PRESETS, describe
from ubgen_pipeline.mini import mini_lora_path
from ubgen_pipeline.models.loading import load_pipeline

NAMES = ["circle", "star"]


def _generate(model, folder, **settings):
    settings = {"samples_per_class": 2, "batch_size": 2, "threads": 1, **settings}
    return generate_dataset(NAMES, folder, model=str(model), **settings)


def _manifest(folder):
    return json.loads((folder / ".ubgen" / "manifest.json").read_text())["settings"]


@pytest.fixture(scope="module")
def loras(random_mini_model, tmp_path_factory):
    """Two that both change images."""
    folders = []
    for seed in (0, 1):
        folders.append(tmp_path_factory.mktemp("lora"))
        pipeline = load_pipeline(random_mini_model)
        pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
        torch.manual_seed(seed)
        for name, weight in pipeline.unet.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05)
        pipeline.save_lora_weights(folders[-1], unet_lora_layers=get_peft_model_state_dict(pipeline.unet))
    return folders


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
    assert len(_manifest(tmp_path / "d")["few_step_lora"]) == 64
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


def test_both_loras_act_and_are_fused(random_mini_model, loras):
    def weight(pipeline):
        prepare_pipeline(pipeline, "fused", records_attention=True)
        return pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.detach().clone()

    base = load_pipeline(random_mini_model).unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
    changes = [weight(load_pipeline(random_mini_model, lora=lora)) - base for lora in loras]
    both = weight(load_pipeline(random_mini_model, lora=loras[0], few_step_lora=loras[1])) - base
    assert all(change.abs().max() > 1e-4 for change in changes)
    torch.testing.assert_close(both, sum(changes), rtol=1e-4, atol=1e-6)


def test_a_lora_in_the_format_of_published_ones_loads(random_mini_model, loras, tmp_path):
    """LCM's and Hyper-SD's come with the keys of the kohya scripts and an alpha each."""
    renamed = {}
    for key, value in load_file(loras[0] / "pytorch_lora_weights.safetensors").items():
        module, side = key.removeprefix("unet.").removesuffix(".weight").rsplit(".", 1)
        name = f"lora_unet_{module.replace('.', '_')}"
        renamed[f"{name}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = value
        # half the rank, so that the product counts half
        renamed[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(renamed, tmp_path / "few.safetensors")

    def weight(**lora):
        pipeline = load_pipeline(random_mini_model, **lora)
        if lora:
            prepare_pipeline(pipeline, "fused", records_attention=True)
        return pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.detach()

    change = weight(lora=loras[0]) - weight()
    torch.testing.assert_close(
        weight(few_step_lora=tmp_path / "few.safetensors") - weight(), change / 2, rtol=1e-3, atol=1e-6
    )


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


def test_the_benchmark_prints_its_table(capsys):
    command = [sys.executable, "-m", "benchmarks.lossy_presets", "--num-images", "10", "--num-inference-steps", "3"]
    # any LoRA that fits
    command += ["--presets", "deep-cache", "--few-step-loras", f"hyper-4={mini_lora_path()}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows == ["", "exact", "deep-cache", "hyper-4", "exact, other seeds"]
    assert main(["--presets", "lcm-4"]) == 2 and "presets holds 'lcm-4'" in capsys.readouterr().err
    for entry in ("dpm-20=few", "hyper-4"):
        assert main(["--few-step-loras", entry]) == 2
        assert f"few_step_loras holds '{entry}'; give PRESET=LORA with one of lcm-4" in capsys.readouterr().err

"""Distillation into a few steps: what is compared with what, what is trained, exact resume, and drawing with it."""

import shutil

import pytest
import torch
from datasets import load_dataset
from safetensors.torch import load_file

from support import ROOT
from support.image_folders import save_class_folders
from support.small_trainings import LORA_FILE, NAMES, SETTINGS
from ubgen_pipeline.generation.generate import main as generate
from ubgen_pipeline.inference.presets import FEW_STEP_PRESETS
from ubgen_training.few_steps.command import main, train
from ubgen_training.few_steps.few_step_config import FewStepConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    save_class_folders(folder, NAMES, 2)
    return folder


def config(folder, output_dir, model, **settings):
    return FewStepConfig(
        dataset=str(folder), output_dir=str(output_dir), model_name_or_path=str(model), **{**SETTINGS, **settings}
    )


def test_the_teachers_lora_is_part_of_it(tiny_model, folder, tmp_path):
    first = train(config(folder, tmp_path / "first", tiny_model, learning_rate=0.1, max_steps=1))
    out, settings = tmp_path / "second", {"max_steps": 1, "lr_scheduler_type": "constant"}
    train(config(folder, out, tiny_model, lora=str(first), **settings))
    plain = train(config(folder, tmp_path / "plain", tiny_model, **settings))
    ours, others = load_file(out / LORA_FILE), load_file(plain / LORA_FILE)
    assert any(not torch.equal(ours[key], others[key]) for key in ours)
    shutil.move(first, tmp_path / "moved")
    settings |= {"max_steps": 2, "resume_from_checkpoint": "last"}
    with pytest.raises(ValueError, match="model"):
        train(config(folder, out, tiny_model, **settings))
    # where it lies does not matter
    train(config(folder, out, tiny_model, lora=str(tmp_path / "moved"), **settings))


def test_training_goes_on_from_a_lora_of_more_segments(tiny_model, folder, tmp_path):
    settings = {"max_steps": 1, "average_decay": 0.0, "lr_scheduler_type": "constant"}
    segments = {"num_segments": 4, "num_teacher_steps": 20}
    first = train(config(folder, tmp_path / "first", tiny_model, learning_rate=0.1, **segments, **settings))
    second = train(
        config(folder, tmp_path / "second", tiny_model, initial_lora=str(first), learning_rate=1e-3, **settings)
    )
    before, after = load_file(first / LORA_FILE), load_file(second / LORA_FILE)
    assert set(before) == set(after)
    # an update of AdamW moves a weight by the learning rate, from where the first training ended
    distance = max((after[key] - value).abs().max().item() for key, value in before.items())
    assert 1e-4 < distance < 2e-3 < max(value.abs().max().item() for key, value in before.items() if "lora_B" in key)
    for wrong, message in (({"initial_lora": str(tmp_path)}, "holds no"), ({"lora_rank": 4}, "does not fit")):
        with pytest.raises(ValueError, match=rf"initial_lora is .*{message}"):
            train(config(folder, tmp_path / "x", tiny_model, **{"initial_lora": str(first), **settings, **wrong}))


def test_resume_is_bit_equal_and_the_preset_draws(tiny_model, folder, tmp_path):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(config(folder, straight, tiny_model))
    shutil.copytree(straight / "checkpoint-1", resumed / "checkpoint-1")
    train(config(folder, resumed, tiny_model, resume_from_checkpoint="last"))
    for name in (LORA_FILE, f"checkpoint-3/{LORA_FILE}"):
        own, other = load_file(straight / name), load_file(resumed / name)
        assert set(own) == set(other) and all(torch.equal(own[key], other[key]) for key in own), name
    flags = ["--model", str(tiny_model), "--class-names", *NAMES, "--samples-per-class", "1"]
    for preset in FEW_STEP_PRESETS:
        out = str(tmp_path / preset)
        assert generate([*flags, "--preset", preset, "--few-step-lora", str(straight), "--output-dir", out]) == 0
        rows = load_dataset(out, split="train")
        assert set(rows["preset"]) == {preset} and len(rows) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_segments": 7}, "num_segments is 7; choose a divisor of num_teacher_steps, which is 48"),
        ({"num_teacher_steps": 0}, "num_teacher_steps is 0"),
        ({"num_teacher_steps": 1000}, r"num_teacher_steps is 1000; choose one in \[1, 1000\)"),
        ({"guidance_scale": 0.5}, "guidance_scale is 0.5"),
        ({"huber_scale": 0.0}, "huber_scale is 0.0"),
        ({"lora": "/nowhere"}, "lora is '/nowhere'"),
        ({"lora_target_modules": ["to_nothing"]}, "to_nothing"),
        ({"per_device_train_batch_size": 5}, "has 4 rows"),
    ],
)
def test_bad_settings(tiny_model, folder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        train(config(folder, tmp_path, tiny_model, **settings))


def test_the_command(tiny_model, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    flags = ["--config", "training/configs/mini_few_steps.yaml", "--model_name_or_path", tiny_model]
    flags += ["--dataset", str(folder), "--max_steps", "1", "--per_device_train_batch_size", "2", "--use_cpu"]
    assert main([*flags, "--output_dir", str(tmp_path / "out")]) == 0
    assert "LoRA saved in" in capsys.readouterr().out and (tmp_path / "out" / LORA_FILE).is_file()
    assert main(["--output_dir", str(tmp_path)]) == 2
    assert "dataset is not given" in capsys.readouterr().err

"""Training of backbones by the command: exact resume, what is exported, and what is refused."""

import json
import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file

from support import ROOT
from support.image_folders import save_class_folders
from support.small_backbones import NAMES, SETTINGS
from ubgen_training.backbone.backbone_config import BackboneConfig
from ubgen_training.backbone.command import main, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fruit")
    save_class_folders(folder, NAMES, 4)
    return folder


def test_resume_is_bit_equal_and_the_average_is_exported(folder, tmp_path):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    # an epoch has three updates, so that the second one begins after the checkpoint that is resumed from
    train(BackboneConfig(dataset=str(folder), output_dir=str(straight), **SETTINGS))
    shutil.copytree(straight / "checkpoint-2", resumed / "checkpoint-2")
    train(BackboneConfig(dataset=str(folder), output_dir=str(resumed), **SETTINGS, resume_from_checkpoint="last"))
    files = {file.name for file in (straight / "checkpoint-4").glob("*.safetensors")}
    assert {"model.safetensors", "optimizer.safetensors", "extra_state.safetensors"} <= files
    for name in files | {"../model.safetensors"}:
        assert (straight / "checkpoint-4" / name).read_bytes() == (resumed / "checkpoint-4" / name).read_bytes(), name
    trained, exported = (load_file(straight / part / "model.safetensors") for part in ("checkpoint-4", "."))
    assert set(trained) == set(exported)
    assert not torch.equal(trained["bn1.running_mean"], exported["bn1.running_mean"])
    assert not torch.equal(trained["fc.weight"], exported["fc.weight"])
    assert not list(straight.rglob("*.bin")) and not list(straight.rglob("*.pt*"))
    model = timm.create_model(f"local-dir:{straight}", pretrained=True)
    assert json.loads((straight / "config.json").read_text())["label_names"] == list(NAMES)
    assert torch.equal(model.state_dict()["fc.weight"], exported["fc.weight"])


def test_a_transformer_and_a_stream(folder, tmp_path):
    settings = {**SETTINGS, "architecture": "vit_tiny_patch16_224", "streaming": True, "max_steps": 1}
    settings["model_args"] = '{"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8}'
    train(BackboneConfig(dataset=str(folder), output_dir=str(tmp_path), **settings))
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True).patch_embed.grid_size == (4, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": None}, "dataset is not given"),
        ({"per_device_train_batch_size": 3}, "need an even one"),
        ({"dataloader_drop_last": False}, "whole batches"),
        ({"streaming": True, "max_steps": -1}, "give max_steps"),
        ({"streaming": True, "max_rows": 4}, "max_rows needs all rows"),
        ({"model_args": "[1]"}, "give a JSON object"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1\.0"),
        ({"push_to_hub": True}, "push_to_hub"),
        ({"max_rows": 100}, "max_rows is 100, but .* has 12 rows"),
        ({"per_device_train_batch_size": 14}, "has 12 rows; choose a smaller one"),
        ({"architecture": "resnet_x"}, "timm does not know"),
        ({"model_args": {"colour": 1}}, "cannot be built"),
        ({"eval_dataset": "OTHER", "eval_split": "train"}, "the same classes in the same order"),
    ],
)
def test_bad_settings(folder, tmp_path, settings, message):
    if settings.get("eval_dataset"):
        save_class_folders(tmp_path / "other", ("pear", "plum"), 1)
        settings = {**settings, "eval_dataset": str(tmp_path / "other")}
    with pytest.raises(ValueError, match=message):
        train(BackboneConfig(**{"dataset": str(folder), "output_dir": str(tmp_path / "out"), **SETTINGS, **settings}))


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    flags = ["--config", "training/configs/mini_backbone.yaml", "--dataset", str(folder), "--image_size", "32"]
    flags += ["--max_steps", "1", "--per_device_train_batch_size", "4", "--use_cpu", "--max_rows", "8"]
    assert main([*flags, "--output_dir", str(tmp_path / "out")]) == 0
    assert "backbone saved in" in capsys.readouterr().out and (tmp_path / "out" / "model.safetensors").is_file()


def test_the_command_names_what_is_wrong(tmp_path, capsys):
    assert main(["--dataset", str(tmp_path / "nowhere"), "--output_dir", str(tmp_path)]) == 2
    assert "could not be read with split" in capsys.readouterr().err

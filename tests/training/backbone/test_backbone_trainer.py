"""Training of backbones: augmentation that does not depend on order, targets, exact resume, the command."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import Mixup

from support import ROOT
from support.image_folders import save_class_folders
from ubgen_pipeline.dataset.labelled_images import load_labelled_images
from ubgen_training.backbone.augmented_images import Augmentation, AugmentedImages, MixingCollator, StreamedImages
from ubgen_training.backbone.backbone_config import BackboneConfig
from ubgen_training.backbone.backbone_trainer import BackboneTrainer, build_backbone
from ubgen_training.backbone.command import main, train

NAMES = ("apple", "pear", "plum")
SMALL = {"channels": [8, 8, 16, 16], "stem_width": 8}
SETTINGS = {
    "architecture": "resnet10t",
    "model_args": SMALL,
    "image_size": 32,
    "per_device_train_batch_size": 4,
    "average_decay": 0.9,
    "use_cpu": True,
    "disable_tqdm": True,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "max_steps": 4,
    "warmup_steps": 0,
    "seed": 3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fruit")
    save_class_folders(folder, NAMES, 4)
    return folder


@pytest.fixture(scope="module")
def images(folder):
    return load_labelled_images(folder)


def test_augmentation_depends_on_seed_epoch_and_index_alone(images):
    transform = Augmentation(image_size=16).training_transform()
    rows = AugmentedImages(images, transform, seed=1)
    first = [rows[i]["pixel_values"] for i in range(4)]
    np.random.seed(9)
    torch.manual_seed(9)
    state = torch.random.get_rng_state()
    assert torch.equal(rows[2]["pixel_values"], first[2])
    assert torch.equal(torch.random.get_rng_state(), state)
    rows.set_epoch(1)
    assert not torch.equal(rows[2]["pixel_values"], first[2])
    assert not torch.equal(AugmentedImages(images, transform, seed=2)[2]["pixel_values"], first[2])


def test_a_stream_gives_every_row_once_and_repeats_itself(folder):
    streamed = load_labelled_images(folder, streaming=True)
    transform = Augmentation(image_size=16).training_transform()
    passes = [list(StreamedImages(streamed, transform, seed=1, buffer_size=5)) for _ in range(2)]
    assert sorted(row["label"] for row in passes[0]) == [0] * 4 + [1] * 4 + [2] * 4
    assert [row["label"] for row in passes[0]] != [0] * 4 + [1] * 4 + [2] * 4
    for first, second in zip(*passes):
        assert torch.equal(first["pixel_values"], second["pixel_values"])


def test_targets_without_mixing_are_smoothed_and_with_it_are_timms():
    rows = [{"pixel_values": torch.full((3, 4, 4), float(i)), "label": i % 3, "seed": 5} for i in range(4)]
    plain = MixingCollator(3, Augmentation(mixup=0, cutmix=0, label_smoothing=0.3))(rows)
    assert plain["targets"][1].tolist() == pytest.approx([0.1, 0.8, 0.1])
    collate = MixingCollator(3, Augmentation(label_smoothing=0.1))
    mixed = collate(rows)
    assert torch.equal(mixed["pixel_values"], collate(rows)["pixel_values"])
    assert torch.allclose(mixed["targets"].sum(dim=1), torch.ones(4)) and mixed["labels"].tolist() == [0, 1, 2, 0]
    # mixup alone: images and targets are mixed with one share, which images of one value give away
    only = MixingCollator(3, Augmentation(cutmix=0, label_smoothing=0))
    found = only([{**row, "seed": 11} for row in rows])
    share = found["targets"][1, 1].item()
    assert 0 < share < 1 and found["pixel_values"][1].mean().item() == pytest.approx(share * 1 + (1 - share) * 2)
    assert isinstance(only.mixup, Mixup)
    with pytest.raises(ValueError, match="a batch has 3 images"):
        collate(rows[:3])
    evaluation = collate([{"pixel_values": row["pixel_values"], "label": row["label"]} for row in rows])
    assert set(evaluation) == {"pixel_values", "labels"} and evaluation["pixel_values"][2, 0, 0, 0] == 2


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


def test_it_learns_and_evaluates_with_the_average(images, tmp_path):
    settings = {**SETTINGS, "save_strategy": "no", "max_steps": 25, "per_device_train_batch_size": 12}
    settings |= {"mixup": 0, "cutmix": 0, "random_erasing": 0, "rand_augment_magnitude": 0, "learning_rate": 3e-3}
    config = BackboneConfig(dataset="memory", output_dir=str(tmp_path), **settings)
    model = build_backbone("resnet10t", 3, 32, SMALL, seed=0)
    trainer = BackboneTrainer(model, config, images, images)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert float(losses[-1]) < 0.8 * float(losses[0])
    own = model.fc.weight.detach().clone()
    assert trainer.evaluate()["eval_accuracy"] > 0.9
    assert torch.equal(model.fc.weight, own)


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


def test_the_command(folder, tmp_path):
    flags = ["--config", "training/configs/mini_backbone.yaml", "--dataset", str(folder), "--image_size", "32"]
    flags += ["--max_steps", "1", "--per_device_train_batch_size", "4", "--use_cpu", "--max_rows", "8"]
    command = [sys.executable, "training/train_backbone.py", *flags, "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "backbone saved in" in done.stdout and (tmp_path / "out" / "model.safetensors").is_file()


def test_the_command_names_what_is_wrong(tmp_path, capsys):
    assert main(["--dataset", str(tmp_path / "nowhere"), "--output_dir", str(tmp_path)]) == 2
    assert "could not be opened" in capsys.readouterr().err

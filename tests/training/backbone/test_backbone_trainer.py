"""The backbone's trainer: it learns, evaluates with the average, and saves what timm reads."""

import json

import pytest
import timm
import torch

from support.image_folders import save_class_folders
from support.small_backbones import NAMES, SETTINGS, SMALL
from ubgen_pipeline.dataset.labelled_images import load_labelled_images
from ubgen_training.backbone.backbone_config import BackboneConfig
from ubgen_training.backbone.backbone_trainer import BackboneTrainer, build_backbone, save_backbone


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fruit")
    save_class_folders(folder, NAMES, 4)
    return folder


@pytest.fixture(scope="module")
def images(folder):
    return load_labelled_images(folder)


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


def test_a_backbone_is_saved_as_timm_reads_it_and_equal_seeds_build_equal_ones(tmp_path):
    one, other, third = (build_backbone("resnet10t", 3, 32, SMALL, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    assert not torch.equal(one.fc.weight, third.fc.weight)
    save_backbone(one, tmp_path, list(NAMES), 32)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert json.loads((tmp_path / "config.json").read_text())["label_names"] == list(NAMES)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in one.state_dict().items())

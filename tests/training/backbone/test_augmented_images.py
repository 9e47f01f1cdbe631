"""Augmentation that does not depend on order, streams, and targets as they are mixed."""

import numpy as np
import pytest
import torch
from timm.data import Mixup

from support.image_folders import save_class_folders
from support.small_backbones import NAMES
from ubgen_pipeline.dataset.labelled_images import load_labelled_images
from ubgen_training.backbone.augmented_images import Augmentation, AugmentedImages, MixingCollator, StreamedImages


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


def test_evaluation_sees_the_middle_of_the_image_and_nothing_random(images):
    rows = AugmentedImages(images, Augmentation(image_size=16).evaluation_transform())
    first, again = rows[3], rows[3]
    assert first["pixel_values"].shape == (3, 16, 16) and "seed" not in first
    assert torch.equal(first["pixel_values"], again["pixel_values"])

"""The images that a word is learned from: a folder's, in the order of their names, or rendered ones."""

import pytest
import torch
from PIL import Image

from ubgen_training.textual_inversion.example_images import read_images


def test_images_of_a_folder(tmp_path):
    Image.new("RGB", (100, 50), "red").save(tmp_path / "b.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "a.jpg")
    images = read_images(str(tmp_path), 64, 64)
    assert images.shape == (2, 3, 64, 64) and images[0].min() > 0.9 and images[1, 1].max() < 0.1


def test_rendered_scenes_depend_on_the_seed_alone():
    one, again, other = (read_images(f"novel:frame:2:{seed}", 64, 64) for seed in (5, 5, 6))
    assert torch.equal(one, again) and not torch.equal(one, other) and one.shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nonexistent", "is no folder"),
        (".", r"holds no \.png"),
        ("novel:star:2:1", "the silhouettes are"),
        ("novel:frame:0:1", "write novel:NAME:NUMBER:SEED"),
        ("novel:frame", "write novel:NAME:NUMBER:SEED"),
    ],
)
def test_what_is_no_source_of_images(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_images(source, 64, 64)

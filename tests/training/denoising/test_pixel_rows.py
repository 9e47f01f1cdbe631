"""Images as a denoiser is trained on them: from rows or a stream, flipped, scaled and cut."""

import numpy as np
import pytest
import torch
from PIL import Image

from support.image_folders import save_class_folders
from support.small_trainings import NAMES
from ubgen_pipeline.dataset.labelled_images import LabelledImages, load_labelled_images
from ubgen_training.denoising.denoiser_config import DenoiserConfig
from ubgen_training.denoising.pixel_rows import PixelRows, StreamedPixelRows, load_images, pixel_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    save_class_folders(folder, NAMES, 2)
    return folder


def test_streams_and_flips(folder):
    streamed = load_labelled_images(folder, streaming=True)
    rows = list(StreamedPixelRows(streamed, 8, 16, seed=1, flip=0.5))
    assert sorted(row["label"] for row in rows) == [0, 0, 1, 1] and rows[0]["pixels"].shape == (3, 8, 16)
    plain = PixelRows(load_labelled_images(folder), 16, 20)
    flipped = PixelRows(load_labelled_images(folder), 16, 20, flip=1.0)
    assert torch.equal(plain[1]["pixels"].flip(2), flipped[1]["pixels"])
    some = PixelRows(load_labelled_images(folder), 16, 20, flip=0.5)
    seen = set()
    for epoch in range(12):
        some.set_epoch(epoch)
        seen.add(torch.equal(some[1]["pixels"], plain[1]["pixels"]))
    assert seen == {True, False}


def test_an_image_covers_the_size_and_is_cut_about_its_centre():
    """Twice as wide as high: scaled to the height, a quarter of the width cut off on both sides."""
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 8:24] = 255
    rows = PixelRows(LabelledImages([{"image": Image.fromarray(pixels), "label": 1}], ("a", "b"), "memory"), 16, 16)
    assert rows[0]["label"] == 1 and (rows[0]["pixels"] == 1).all() and rows[0]["pixels"].shape == (3, 16, 16)
    larger = PixelRows(rows.images, 32, 32)[0]["pixels"]
    # bicubic: the borders of the cut see what lies beyond them
    assert larger.shape == (3, 32, 32) and (larger[:, :, 4:-4] > 0.99).all()
    untouched = PixelRows(rows.images, 16, 32)[0]["pixels"]
    assert torch.equal(untouched, torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1)


def test_the_config_says_where_images_come_from_and_how_they_are_read(folder):
    config = DenoiserConfig(dataset=str(folder), prompt_template="a {name}", horizontal_flip=1.0, use_cpu=True)
    images, prompts = load_images(config)
    assert prompts == [f"a {name}" for name in NAMES] and list(images.class_names) == list(NAMES)
    rows = pixel_rows(images, config, 16, 20)
    assert torch.equal(rows[1]["pixels"], PixelRows(images, 16, 20, flip=1.0)[1]["pixels"])
    streaming = DenoiserConfig(dataset=str(folder), streaming=True, max_steps=1, use_cpu=True)
    assert isinstance(pixel_rows(load_images(streaming)[0], streaming, 16, 20), StreamedPixelRows)

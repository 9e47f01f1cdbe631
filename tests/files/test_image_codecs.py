"""Codecs of the image column, read back by Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from ubgen_pipeline.files.image_codecs import CODECS, check_codec, image_encoder


@pytest.fixture(scope="module")
def image():
    ramp = np.linspace(0, 255, 64)
    picture = np.stack([np.add.outer(ramp, ramp) / 2, np.outer(ramp, ramp) / 255, np.tile(ramp, (64, 1))], axis=-1)
    return (picture + np.random.default_rng(0).normal(0, 2, picture.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("codec", CODECS)
def test_what_comes_back(image, codec):
    data = image_encoder(codec)(image)
    read = Image.open(io.BytesIO(data))
    assert read.format == {"png": "PNG", "webp-lossless": "WEBP", "jpeg": "JPEG"}[codec] and read.mode == "RGB"
    error = np.asarray(read, np.float64) - image
    if codec == "jpeg":
        assert 0 < np.sqrt(np.mean(error**2)) < 4
    else:
        assert not error.any()


def test_a_codec_that_is_unknown_or_not_built_in(monkeypatch):
    with pytest.raises(ValueError, match="codec is 'avif'; choose one of png, webp-lossless, jpeg"):
        check_codec("avif")
    Image.init()
    monkeypatch.setattr(Image, "SAVE", {name: save for name, save in Image.SAVE.items() if name != "WEBP"})
    with pytest.raises(ValueError, match="codec is 'webp-lossless', but this Pillow was built without WEBP"):
        check_codec("webp-lossless")

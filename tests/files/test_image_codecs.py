"""Codecs of the image column, read back by Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from support import ROOT
from ubgen_pipeline.files.image_codecs import CODECS, check_codec, image_encoder, plain_suffix, rgb_image


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


def test_any_image_becomes_8_bits_of_each_colour():
    ramp = np.linspace(0, 65535, 4096).reshape(64, 64)
    for mode in (np.uint16, np.int32):
        grey = np.asarray(rgb_image(Image.fromarray(ramp.astype(mode))))
        assert grey.shape == (64, 64, 3) and np.abs(grey[..., 0] - ramp / 257).max() <= 0.51
    # red hidden under full transparency is white, half of it pink
    clear = np.zeros((1, 3, 4), np.uint8)
    clear[..., 0], clear[0, :, 3] = 255, [0, 128, 255]
    expected = [[255, 255, 255], [255, 127, 127], [255, 0, 0]]
    assert np.array_equal(np.asarray(rgb_image(Image.fromarray(clear)))[0], expected)
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.info["transparency"] = 0
    assert np.asarray(rgb_image(palette)).tolist() == [[[255, 255, 255], [0, 0, 255]]]
    for mode in ("1", "L", "RGB", "CMYK", "YCbCr"):
        plain = Image.new(mode, (2, 2), 0)
        assert rgb_image(plain).tobytes() == plain.convert("RGB").tobytes()


def test_pixels_of_no_known_scale_are_refused():
    with pytest.raises(ValueError, match="row 7 has floating-point pixels"):
        rgb_image(Image.fromarray(np.zeros((2, 2), np.float32)), "row 7")
    with pytest.raises(ValueError, match="image has pixels from -1 to 70000, which are not of 16 bits"):
        rgb_image(Image.fromarray(np.array([[-1, 70000]], np.int32)))


def test_nobody_else_converts_images():
    """Pillow's own conversion turns 16 bits white."""
    own = {ROOT / "ubgen_pipeline" / "files" / "image_codecs.py"}
    rooms = ("ubgen_pipeline", "training", "evaluation", "space", "hub_cards")
    files = {file for room in rooms for file in (ROOT / room).rglob("*.py")} - own
    assert [file for file in files if 'convert("RGB")' in file.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_images_are_upright(form, turned):
    # darker to the right, and far darker downwards: where each corner lies tells how the image is turned
    upright = (255 - np.add.outer(np.linspace(0, 200, 24), np.linspace(0, 50, 32))).astype(np.uint8)
    own = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
           6: np.rot90(upright, 1), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1)}  # fmt: skip
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = turned
    Image.fromarray(np.ascontiguousarray(own[turned])).convert("RGB").save(stream, form, exif=exif.tobytes())
    found = rgb_image(Image.open(io.BytesIO(stream.getvalue())))
    assert found.size == (32, 24) and np.abs(np.asarray(found)[:, :, 0].astype(int) - upright).max() < 12
    suffix, size = plain_suffix(stream.getvalue(), "image")
    assert size == (32, 24) and suffix == (
        {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tiff"}[form] if turned == 1 else None
    )

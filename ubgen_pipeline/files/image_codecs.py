"""Image files in memory: the codecs of a dataset's image column, and any image as 8-bit RGB. No torch."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

JPEG_QUALITY = 95
# Pillow's own speed and size settings per codec. WebP's method 0 is its fastest and, without loss, within a few
# percent of its smallest; `exact` keeps what lies under transparency, which RGB does not have, and costs nothing.
_SAVE_ARGUMENTS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "webp-lossless": {"format": "WEBP", "lossless": True, "method": 0, "quality": 0},
    "jpeg": {"format": "JPEG", "quality": JPEG_QUALITY},
}
CODECS = tuple(_SAVE_ARGUMENTS)
# what Pillow's decoders raise for a damaged file; an OSError without a number is theirs, not the disk's
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class DamagedImageError(ValueError):
    """An image that cannot be decoded.

    Args:
        what: it is: its row and column, or its file.
        reason: the decoder's.
    """

    def __init__(self, what: str, reason: str = ""):
        # a data loader's worker hands over one text
        message = f"{what} holds a damaged image ({reason}); replace or remove it, or set skip_damaged."
        super().__init__(message if reason else what)


def check_codec(codec: str) -> None:
    """Raise ``ValueError`` unless ``codec`` is known and this Pillow can write it."""
    if codec not in _SAVE_ARGUMENTS:
        raise ValueError(f"codec is {codec!r}; choose one of {', '.join(CODECS)}.")
    Image.init()
    name = _SAVE_ARGUMENTS[codec]["format"]
    if name not in Image.SAVE:
        raise ValueError(
            f"codec is {codec!r}, but this Pillow was built without {name}; install it from its wheel, or take png."
        )


def image_encoder(codec: str) -> Callable[[np.ndarray], bytes]:
    """A function from ``(H, W, 3)`` uint8 to the bytes of an image file; Pillow encodes outside of Python's lock.

    Args:
        codec: ``png`` and ``webp-lossless`` keep every pixel; ``jpeg`` (quality 95, 4:2:0) does not.

    Raises:
        ValueError: see :func:`check_codec`.
    """
    check_codec(codec)

    def encode(image: np.ndarray) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, **_SAVE_ARGUMENTS[codec])
        return stream.getvalue()

    return encode


def read_rgb(data: bytes | None, what: str) -> Image.Image:
    """The image of a file's bytes, by :func:`rgb_image`.

    Args:
        data: content of the file.
        what: it is, for errors.

    Raises:
        DamagedImageError: it cannot be decoded.
        ValueError: see :func:`rgb_image`.
    """
    try:
        with Image.open(io.BytesIO(data or b"")) as opened:
            opened.load()
    except DECODER_ERRORS as error:
        raise DamagedImageError(what, str(error) or type(error).__name__) from error
    return rgb_image(opened, what)


def read_numbers(data: bytes | None, what: str) -> np.ndarray:
    """The whole numbers ``(H, W)`` of a file of one channel, such as a mask; palettes are not looked up.

    Raises:
        DamagedImageError: it cannot be decoded.
        ValueError: several channels.
    """
    try:
        with Image.open(io.BytesIO(data or b"")) as opened:
            numbers = np.asarray(opened)
    except DECODER_ERRORS as error:
        raise DamagedImageError(what, str(error) or type(error).__name__) from error
    if numbers.ndim != 2:
        raise ValueError(f"{what} has {numbers.shape[2]} channels; give one of whole numbers.")
    return numbers


def rgb_image(image: Image.Image, what: str = "image") -> Image.Image:
    """The image with 8 bits for each of red, green and blue: 16 bits are scaled, and what is transparent is white.

    Pillow's own conversion cuts 16 bits off at 255, and shows colours that lie hidden under full transparency.

    Args:
        image: of any mode.
        what: it is, for errors.

    Raises:
        ValueError: floating-point pixels, or whole numbers beyond 16 bits, for which no scale is known; or no image.
    """
    if not isinstance(image, Image.Image):
        raise ValueError(f"{what} is no image, but {type(image).__name__}; leave it out.")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ValueError(
                f"{what} has pixels from {values.min()} to {values.max()}, which are not of 16 bits; save it with 8 or"
                " 16 bits."
            )
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError(f"{what} has floating-point pixels, whose scale nobody says; save it with 8 or 16 bits.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def png_bytes(image: Image.Image | np.ndarray) -> bytes:
    """An image, or a mask ``(H, W)`` uint8, as PNG."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()

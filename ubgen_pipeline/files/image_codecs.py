"""Image files in memory: the codecs of a dataset's image column, and any image as 8-bit RGB. No torch."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

JPEG_QUALITY = 95
# Pillow's own speed and size settings per codec. WebP's method 0 is its fastest and, without loss, within a few
# percent of its smallest; `exact` keeps what lies under transparency, which RGB does not have, and costs nothing.
_SAVE_ARGUMENTS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "webp-lossless": {"format": "WEBP", "lossless": True, "method": 0, "quality": 0},
    "jpeg": {"format": "JPEG", "quality": JPEG_QUALITY},
}
CODECS = tuple(_SAVE_ARGUMENTS)
# Formats and modes that torchvision, OpenCV and Pillow's own conversion to RGB all show as they are, and what their
# files are named.
PLAIN_FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tiff", "MPO": ".jpg"}
_PLAIN_MODES = ("1", "L", "P", "RGB", "CMYK")
_ORIENTATION = 0x0112
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


def plain_suffix(data: bytes, what: str) -> tuple[str | None, tuple[int, int]]:
    """What a file of these bytes is named so that all readers show the same image, and its upright (width, height).

    The suffix is None where they would not: of a format that many do not read, turned by EXIF, of 16 bits, animated,
    or with transparency.

    Args:
        data: content of the file.
        what: it is, for errors.

    Raises:
        DamagedImageError: it cannot be decoded, or ends too early.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            # Pillow decodes a whole PNG to look for EXIF behind its pixels
            may_turn = image.format != "PNG" or b"eXIf" in data or b"exif" in data
            turned = orientation_of(image) if may_turn else 1
            if not _ends_well(data, str(image.format)):
                image.load()
            # Pillow turns TIFFs itself
            width, height = image.size[::-1] if turned >= 5 and image.format != "TIFF" else image.size
            is_plain = (
                image.format in PLAIN_FORMATS
                and image.mode in _PLAIN_MODES
                and turned == 1
                # cameras put a second view behind a JPEG, which readers of JPEG pass over
                and (image.format == "MPO" or getattr(image, "n_frames", 1) == 1)
                and not image.has_transparency_data
            )
            return PLAIN_FORMATS[str(image.format)] if is_plain else None, (width, height)
    except DECODER_ERRORS as error:
        raise DamagedImageError(what, str(error) or type(error).__name__) from error


def orientation_of(image: Image.Image) -> int:
    """How EXIF says that an opened image is turned: 1 where it is upright, to 8; 5 and more swap its sides."""
    try:
        turned = int(image.getexif().get(_ORIENTATION, 1))
    except (TypeError, *DECODER_ERRORS):
        return 1
    return turned if 1 <= turned <= 8 else 1


def _ends_well(data: bytes, name: str) -> bool:
    """Whether a file ends as its format says that it must: then nothing was cut off. False where that is not known."""
    if name == "PNG":
        return b"IEND" in data[-16:]
    if name in ("JPEG", "MPO"):
        return data.rstrip(b"\0")[-2:] == b"\xff\xd9"
    return name == "WEBP" and len(data) >= 8 + int.from_bytes(data[4:8], "little")


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
    """The image upright with 8 bits for each of red, green and blue: 16 bits are scaled, what is transparent is white.

    Pillow's own conversion cuts 16 bits off at 255, and shows colours that lie hidden under full transparency.

    Args:
        image: of any mode.
        what: it is, for errors.

    Raises:
        ValueError: floating-point pixels, or whole numbers beyond 16 bits, for which no scale is known; or no image.
    """
    if not isinstance(image, Image.Image):
        raise ValueError(f"{what} is no image, but {type(image).__name__}; leave it out.")
    if orientation_of(image) != 1:
        # as cameras write it: the pixels lie on their side
        image = ImageOps.exif_transpose(image)
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

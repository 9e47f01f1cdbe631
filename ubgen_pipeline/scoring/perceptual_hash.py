"""A perceptual hash, near-equal for images that look alike, and the Hamming distances between hashes. No torch."""

import numpy as np
from PIL import Image
from scipy.fft import dctn

HASH_BITS = 64
_HASH_SIDE, _IMAGE_SIDE = 8, 32


def perceptual_hash(image: Image.Image) -> int:
    """The 64 bits of the DCT hash (pHash), equal to those of the library imagehash.

    The image in grey is brought to 32 x 32 pixels; a bit says whether one of its 8 x 8 lowest frequencies (DCT-II, row
    by row, the mean first) is above their median. See Zauner, "Implementation and benchmarking of perceptual image
    hash functions" (2010), section 3.2.1.

    Args:
        image: of any size and mode.
    """
    pixels = np.asarray(image.convert("L").resize((_IMAGE_SIDE, _IMAGE_SIDE), Image.Resampling.LANCZOS), np.float64)
    frequencies = np.asarray(dctn(pixels, type=2))[:_HASH_SIDE, :_HASH_SIDE]
    # of an image without structure rounding alone would decide
    frequencies[np.abs(frequencies) < 1e-6] = 0
    bits = (frequencies > np.median(frequencies)).flatten()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hash_text(value: int) -> str:
    """A hash as 16 hexadecimal digits, which is how datasets hold it."""
    return f"{value:016x}"


def hashes_from_texts(texts: list[str | None]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes ``(N,)`` uint64 of their texts, 0 for None, and ``(N,)`` bool: which of them there are.

    Raises:
        ValueError: a text that is no hash.
    """
    try:
        values = np.array([0 if text is None else int(text, 16) for text in texts], dtype=np.uint64)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"column perceptual_hash holds something that is no hash of {HASH_BITS // 4} hexadecimal digits ({error});"
            " make it anew with `ubgen score DIR --scores duplicates`."
        ) from error
    return values, np.array([text is not None for text in texts], dtype=bool)

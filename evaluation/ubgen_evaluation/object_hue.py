"""Which hue the object of a mini-world image has: a factor that a class may be tied to, read off the pixels."""

import numpy as np
from matplotlib.colors import rgb_to_hsv

NUM_HUES = 12
# least distance in RGB, of 255 a channel, from every colour of the image's border for a pixel to be the object's; the
# world keeps object and background further apart on average, and its backgrounds are grainy
_LEAST_DISTANCE = 60.0
# every so many pixels of the border are looked at
_BORDER_STRIDE = 4
# least mean range of the channels, of 255, below which an object is grey
_LEAST_CHROMA = 16.0


def object_hue(images: np.ndarray) -> np.ndarray:
    """The commonest hue of each image's object, with pixels weighed by their chroma.

    No object of the mini world touches the border, so a pixel that is unlike all of the border is taken for the
    object's. The hue is that of the HSV colour space, in sectors of 360 / NUM_HUES degrees, the first around red.

    Args:
        images: ``(N, H, W, 3)`` uint8.

    Returns:
        ``(N,)`` integers in [0, NUM_HUES]; NUM_HUES is for an object without colour, and for an image without object.

    Raises:
        ValueError: images of another shape or type.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images must be (N, H, W, 3) uint8, got {images.shape} {images.dtype}; convert them first.")
    return np.array([_hue_of(image.astype(np.float32)) for image in images], dtype=np.int64)


def _hue_of(image: np.ndarray) -> int:
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])[::_BORDER_STRIDE]
    pixels = image.reshape(-1, 3)
    # |a - b|² as |a|² + |b|² - 2 a·b, one product for all pairs
    squares = (pixels**2).sum(axis=1)[:, None] + (border**2).sum(axis=1) - 2 * pixels @ border.T
    pixels = pixels[squares.min(axis=1) > _LEAST_DISTANCE**2]
    if len(pixels) == 0 or np.ptp(pixels, axis=1).mean() < _LEAST_CHROMA:
        return NUM_HUES
    hues = rgb_to_hsv(pixels / 255)[:, 0]
    sectors = np.round(hues * NUM_HUES).astype(int) % NUM_HUES
    return int(np.bincount(sectors, weights=np.ptp(pixels, axis=1), minlength=NUM_HUES).argmax())

"""Masks and boxes drawn over an image."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ubgen_pipeline.files.image_codecs import rgb_image
from ubgen_pipeline.mask_settings import IGNORE_LABEL

# what can be drawn over an image
MASK, BOXES = LAYERS = ("Mask", "Boxes")
SHORTEST_SIDE = 384
# colours that stay apart for colour-blind eyes (Okabe and Ito's eight without black)
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
UNDECIDED = (128, 128, 128)


def draw_overlay(
    image: Image.Image,
    mask: np.ndarray | None = None,
    boxes: Sequence[Sequence[float]] | np.ndarray | None = None,
    strength: float = 0.5,
) -> Image.Image:
    """The image, enlarged in whole steps where it is small, under its mask's colours and its boxes.

    Args:
        image: RGB, H x W.
        mask: ``(H, W)`` uint8: 0 background, label + 1, 255 undecided (grey); None for no mask.
        boxes: ``(N, 4)`` (x0, y0, x1, y1) in pixels of the image, end exclusive; None for no boxes.
        strength: of the mask's colours, in [0, 1].

    Raises:
        ValueError: a mask of another size than the image.
    """
    image = rgb_image(image)
    if mask is not None:
        if mask.shape != (image.height, image.width):
            raise ValueError(f"mask is {mask.shape}; the image is {(image.height, image.width)}.")
        pixels = np.asarray(image, dtype=np.float32)
        colours = mask_colours(mask)
        covered = (mask > 0)[..., None]
        image = Image.fromarray(
            np.where(covered, (1 - strength) * pixels + strength * colours, pixels).round().astype(np.uint8)
        )
    scale = max(1, -(-SHORTEST_SIDE // min(image.size)))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    if boxes is not None:
        pencil = ImageDraw.Draw(image)
        for x0, y0, x1, y1 in (np.asarray(box, dtype=np.float64) * scale for box in boxes):
            if x1 > x0 and y1 > y0:
                # a dark line under a light one shows on any background
                pencil.rectangle((x0, y0, x1 - 1, y1 - 1), outline=(0, 0, 0), width=5)
                pencil.rectangle((x0 + 1, y0 + 1, x1 - 2, y1 - 2), outline=(255, 255, 255), width=3)
    return image


def mask_colours(mask: np.ndarray) -> np.ndarray:
    """``(H, W, 3)`` uint8 colours of a mask ``(H, W)``: black, one of ``COLOURS`` per label, grey where undecided."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    for value in range(1, 255):
        palette[value] = COLOURS[(value - 1) % len(COLOURS)]
    palette[IGNORE_LABEL] = UNDECIDED
    return palette[mask]

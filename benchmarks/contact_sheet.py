"""A picture of datasets side by side: one row per class, one block of images per dataset."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 4
_FONT_SIZE = 16


def draw_contact_sheet(
    datasets: Mapping[str, Mapping[str, Sequence[np.ndarray]]],
    path: Path | str,
    *,
    num_per_class: int = 8,
    datasets_per_row: int | None = None,
) -> None:
    """Save a PNG.

    Args:
        datasets: for each dataset's name, its images ``(H, W, 3)`` uint8 by class name; all of one size, and the
            same classes in the same order in every dataset.
        path: of the PNG or JPEG; its folder must exist.
        num_per_class: the first so many images of each class are shown.
        datasets_per_row: so many blocks side by side, the others below; all side by side, if not given.

    Raises:
        ValueError: no dataset, no image, or datasets of other classes.
    """
    if not datasets:
        raise ValueError("datasets is empty; give at least one.")
    blocks = list(datasets.items())
    class_names = list(blocks[0][1])
    for name, images in blocks:
        if list(images) != class_names:
            raise ValueError(f"dataset {name!r} has classes {list(images)}, the first {class_names}; make them equal.")
    all_images = [image for _, images in blocks for group in images.values() for image in group]
    if not all_images:
        raise ValueError("datasets hold no image; give at least one.")
    height, width = all_images[0].shape[:2]
    columns = min(num_per_class, max(len(group) for _, images in blocks for group in images.values()))
    font = ImageFont.load_default(_FONT_SIZE)
    left = max(int(font.getlength(name)) for name in class_names) + 3 * _GAP
    block_width = columns * (width + _GAP) + 5 * _GAP
    top = _FONT_SIZE + 4 * _GAP
    block_height = top + len(class_names) * (height + _GAP)
    per_row = min(datasets_per_row or len(blocks), len(blocks))
    sheet = Image.new("RGB", (left + per_row * block_width, math.ceil(len(blocks) / per_row) * block_height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, images) in enumerate(blocks):
        x, y = left + number % per_row * block_width, number // per_row * block_height
        draw.text((x, y + _GAP + _FONT_SIZE // 2), name, fill="black", font=font, anchor="lm")
        for row, class_name in enumerate(class_names):
            line = y + top + row * (height + _GAP)
            if number % per_row == 0:
                draw.text((_GAP, line + height // 2), class_name, fill="black", font=font, anchor="lm")
            for column, image in enumerate(images[class_name][:columns]):
                sheet.paste(Image.fromarray(image), (x + column * (width + _GAP), line))
    # the two settings are for JPEG, which a page of many datasets takes
    sheet.save(path, quality=90, subsampling=0)

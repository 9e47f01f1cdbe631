"""A picture of datasets side by side: one row per class, one block of images per dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 4
_FONT_SIZE = 16


def draw_contact_sheet(
    datasets: Mapping[str, Mapping[str, Sequence[np.ndarray]]], path: Path | str, *, num_per_class: int = 8
) -> None:
    """Save a PNG.

    Args:
        datasets: for each dataset's name, its images ``(H, W, 3)`` uint8 by class name; all of one size, and the
            same classes in the same order in every dataset.
        path: of the PNG or JPEG; its folder must exist.
        num_per_class: the first so many images of each class are shown.

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
    sheet = Image.new("RGB", (left + len(blocks) * block_width, top + len(class_names) * (height + _GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, class_name in enumerate(class_names):
        middle = top + row * (height + _GAP) + height // 2
        draw.text((_GAP, middle), class_name, fill="black", font=font, anchor="lm")
    for number, (name, images) in enumerate(blocks):
        x = left + number * block_width
        draw.text((x, _GAP + _FONT_SIZE // 2), name, fill="black", font=font, anchor="lm")
        for row, class_name in enumerate(class_names):
            for column, image in enumerate(images[class_name][:columns]):
                place = (x + column * (width + _GAP), top + row * (height + _GAP))
                sheet.paste(Image.fromarray(image), place)
    # the two settings are for JPEG, which a page of many datasets takes
    sheet.save(path, quality=90, subsampling=0)

"""Small image folders for tests: one colour per class, so that anything can tell them apart."""

from pathlib import Path

import numpy as np
from PIL import Image


def save_image(file: Path, label: int = 0, seed: int = 0, size: tuple[int, int] = (20, 16)) -> None:
    """An image of the class's own colour with a little noise."""
    rng = np.random.default_rng((label, seed))
    colour = np.random.default_rng(1000 + label).integers(0, 256, 3)
    pixels = np.clip(colour + rng.integers(-8, 9, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def save_class_folders(folder: Path, class_names, num_images: int, start: int = 0) -> None:
    """``folder/CLASS/K.png``."""
    for label, name in enumerate(class_names):
        for index in range(start, start + num_images):
            save_image(folder / name / f"{index}.png", label, index)


def damage(file: Path) -> None:
    """Cut an image file short, as a download that broke off leaves it: its head can be read, its pixels cannot."""
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])

"""The few images that a word is learned from: those of a folder, or rendered scenes of a novel silhouette."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ubgen_pipeline.files.image_codecs import DamagedImageError, read_rgb
from ubgen_pipeline.mini.scenes import NOVEL_CLASS_NAMES, scenes

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_images(source: str, height: int, width: int, *, skip_damaged: bool = False) -> torch.Tensor:
    """``(N, 3, height, width)`` in [0, 1]: the images of a folder in name order, or rendered novel scenes; cut to
    the model's shape about the centre. ``skip_damaged`` leaves images out that cannot be read, and says which.

    Raises:
        ValueError: no folder, no images in it, or one that cannot be read.
    """
    if source.startswith("novel:"):
        pictures = _novel_scenes(source)
    else:
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise ValueError(f"images is {source!r}, which is no folder; give a folder of images.")
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"images is {source!r}, which holds no {', '.join(SUFFIXES)}; put images there.")
        pictures = []
        for file in files:
            try:
                pictures.append(read_rgb(file.read_bytes(), f"file {str(file)!r} of images"))
            except DamagedImageError as error:
                if not skip_damaged:
                    raise
                print(f"{error} It is left out.")
        if not pictures:
            raise ValueError(f"images is {source!r}, whose {len(files)} images are all damaged; put others there.")
    cut = [ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC) for picture in pictures]
    arrays = [np.asarray(picture, np.float32) / 255 for picture in cut]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def _novel_scenes(source: str) -> list[Image.Image]:
    try:
        _, name, number, seed = source.split(":")
        if name not in NOVEL_CLASS_NAMES or int(number) < 1:
            raise ValueError(f"the silhouettes are {', '.join(NOVEL_CLASS_NAMES)}")
        rendered = scenes(int(number), bias=0.0, seed=int(seed), class_names=[name])
    except ValueError as error:
        raise ValueError(f"images is {source!r}; write novel:NAME:NUMBER:SEED. {error}") from error
    return [Image.fromarray(scene.image) for scene in rendered]

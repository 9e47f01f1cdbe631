"""Labelled images as a denoiser is trained on them: read with the prompts of their classes, resized, in [-1, 1].

Shapes: B samples, H x W pixels.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from ubgen_pipeline.dataset.labelled_images import LabelledImages, load_labelled_images
from ubgen_pipeline.files.image_codecs import rgb_image
from ubgen_pipeline.prompts.class_prompts import class_prompts, load_class_names
from ubgen_pipeline.sample_seeds import sample_seed

from ..images.epoch_rows import EpochRows, EpochStream
from .denoiser_config import LatentTrainingConfig


class PixelRows(EpochRows):
    """Rows of ``pixels (3, H, W)`` in [-1, 1] and ``label``; a trainer sets the epoch, on which the flip depends."""

    def __init__(self, images: LabelledImages, height: int, width: int, *, seed: int = 0, flip: float = 0.0):
        super().__init__(images, partial(_pixels, size=(height, width), seed=seed, flip=flip))


class StreamedPixelRows(EpochStream):
    """The same rows from a stream, shuffled within a buffer."""

    def __init__(
        self,
        images: LabelledImages,
        height: int,
        width: int,
        *,
        seed: int = 0,
        flip: float = 0.0,
        buffer_size: int = 1000,
    ):
        prepare = partial(_pixels, size=(height, width), seed=seed, flip=flip)
        super().__init__(images, prepare, seed=seed, buffer_size=buffer_size)


def load_images(config: LatentTrainingConfig) -> tuple[LabelledImages, list[str]]:
    """The dataset's images and the prompts of its classes, in label order.

    Raises:
        ValueError: the dataset cannot be read, or a class's name cannot be used.
    """
    images = load_labelled_images(
        config.dataset,
        split=config.split,
        streaming=config.streaming,
        revision=config.revision,
        skip_damaged=config.skip_damaged,
    )
    names = load_class_names(list(images.class_names))
    prompts = class_prompts(names, config.prompt_template, argument="prompt_template")
    return images, [prompt.prompt for prompt in prompts]


def pixel_rows(
    images: LabelledImages, config: LatentTrainingConfig, height: int, width: int
) -> PixelRows | StreamedPixelRows:
    """The rows of ``images`` at that size in pixels, whole or from a stream as they came."""
    seed, flip = config.seed, config.horizontal_flip
    if images.is_streamed:
        return StreamedPixelRows(images, height, width, seed=seed, flip=flip, buffer_size=config.shuffle_buffer)
    return PixelRows(images, height, width, seed=seed, flip=flip)


def collate_pixels(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """``pixels (B, 3, H, W)`` and ``labels (B,)``."""
    return {
        "pixels": torch.stack([row["pixels"] for row in rows]),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def _pixels(
    row: dict[str, Any], index: int, epoch: int, size: tuple[int, int], seed: int, flip: float
) -> dict[str, Any]:
    image = _cover(rgb_image(row["image"], f"the image of row {index}"), *size)
    if _is_flipped(seed, epoch, index, flip):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
    return {"pixels": pixels, "label": int(row["label"])}


def _cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scaled to cover the size, then cut to its centre; untouched where it has it."""
    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    image = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _is_flipped(seed: int, epoch: int, index: int, share: float) -> bool:
    return share > 0 and sample_seed(seed, f"flip/epoch {epoch}", index) < share * 2**63

"""Labelled images as a backbone is trained on them: augmented one by one, then mixed within a batch.

Every random choice comes from a hash of (seed, epoch, index). So it depends on neither batch size nor workers nor
earlier choices, and a resumed run sees the images of an uninterrupted one.
Shapes: B images, C classes, S x S pixels.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, Mixup, create_transform

from ubgen_pipeline.dataset.labelled_images import LabelledImages
from ubgen_pipeline.files.image_codecs import rgb_image
from ubgen_pipeline.sample_seeds import sample_seed

from ..images.epoch_rows import EpochRows, EpochStream


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image; the defaults are the paper's (arXiv 2412.10831, Table 6).

    ``rand_augment_magnitude`` 0 means none; ``mixup`` and ``cutmix`` are the alphas of their beta distributions, 0 for
    none; ``least_crop`` is the least share of the image that a random crop keeps.
    """

    image_size: int = 224
    rand_augment_magnitude: int = 9
    rand_augment_deviation: float = 0.5
    mixup: float = 0.8
    cutmix: float = 1.0
    random_erasing: float = 0.25
    label_smoothing: float = 0.1
    least_crop: float = 0.08
    horizontal_flip: float = 0.5

    def training_transform(self) -> Callable[[Any], torch.Tensor]:
        """PIL image to ``(3, S, S)``, augmented and normalised with ImageNet's mean and deviation."""
        magnitude, deviation = self.rand_augment_magnitude, self.rand_augment_deviation
        return _transform(
            self.image_size,
            is_training=True,
            scale=(self.least_crop, 1.0),
            hflip=self.horizontal_flip,
            # timm leaves this out where RandAugment changes colours too
            color_jitter=None,
            auto_augment=f"rand-m{magnitude}-mstd{deviation}-inc1" if magnitude else None,
            re_prob=self.random_erasing,
            re_mode="pixel",
        )

    def evaluation_transform(self) -> Callable[[Any], torch.Tensor]:
        """PIL image to ``(3, S, S)``: shorter side to S, centre crop, the same normalisation."""
        return _transform(self.image_size, crop_pct=1.0)


class AugmentedImages(EpochRows):
    """Rows of ``pixel_values (3, S, S)``, ``label`` and, for training, ``seed``; a trainer sets the epoch."""

    def __init__(self, images: LabelledImages, transform: Callable[[Any], torch.Tensor], seed: int | None = None):
        super().__init__(images, partial(_augment, transform=transform, seed=seed))


class StreamedImages(EpochStream):
    """The same rows from a stream, shuffled within a buffer; the order depends on seed and epoch alone."""

    def __init__(
        self, images: LabelledImages, transform: Callable[[Any], torch.Tensor], seed: int, buffer_size: int = 1000
    ):
        prepare = partial(_augment, transform=transform, seed=seed)
        super().__init__(images, prepare, seed=seed, buffer_size=buffer_size)


class MixingCollator:
    """Rows to ``pixel_values (B, 3, S, S)``, ``labels (B,)`` and, for training rows, soft ``targets (B, C)``.

    Raises:
        ValueError: mixing an odd number of images, which timm cannot.
    """

    def __init__(self, num_classes: int, augmentation: Augmentation):
        self.num_classes = num_classes
        self.smoothing = augmentation.label_smoothing
        self.mixup: Mixup | None = None
        if augmentation.mixup > 0 or augmentation.cutmix > 0:
            self.mixup = Mixup(
                augmentation.mixup, augmentation.cutmix, label_smoothing=self.smoothing, num_classes=num_classes
            )

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixel_values = torch.stack([row["pixel_values"] for row in rows])
        labels = torch.tensor([row["label"] for row in rows])
        if "seed" not in rows[0]:
            return {"pixel_values": pixel_values, "labels": labels}
        if self.mixup is None:
            targets = torch.full((len(rows), self.num_classes), self.smoothing / self.num_classes)
            targets.scatter_add_(1, labels[:, None], torch.full((len(rows), 1), 1 - self.smoothing))
        else:
            if len(rows) % 2:
                raise ValueError(f"a batch has {len(rows)} images; mixup and cutmix need an even batch size.")
            with _seeded(sample_seed(rows[0]["seed"], "mixing", 0)):
                pixel_values, targets = self.mixup(pixel_values, labels)
        return {"pixel_values": pixel_values, "labels": labels, "targets": targets}


def _transform(image_size: int, **settings: Any) -> Callable[[Any], torch.Tensor]:
    """timm's, which for these settings is one function of an image."""
    transform: Any = create_transform(
        image_size, interpolation="bicubic", mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, **settings
    )
    return transform


def _augment(
    row: dict[str, Any], index: int, epoch: int, transform: Callable[[Any], torch.Tensor], seed: int | None
) -> dict[str, Any]:
    image, label = rgb_image(row["image"], f"the image of row {index}"), int(row["label"])
    if seed is None:
        return {"pixel_values": transform(image), "label": label}
    own_seed = sample_seed(seed, f"augmentation/epoch {epoch}", index)
    with _seeded(own_seed):
        return {"pixel_values": transform(image), "label": label, "seed": own_seed}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the random states of Python, numpy and torch, by which timm chooses, and put them back afterwards."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # not torch.manual_seed, which would also seed every GPU
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])

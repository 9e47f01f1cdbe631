"""Images and masks of a dataset folder, checked before training, and the random views that training sees.

Shapes: B images of H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, concatenate_datasets
from PIL import Image as PilImage
from torchvision import tv_tensors
from torchvision.transforms import v2

from ubgen_pipeline.dataset.damaged_images import read_row, without_damaged
from ubgen_pipeline.dataset.reader import label_names_of, open_rows
from ubgen_pipeline.files.image_codecs import rgb_image
from ubgen_pipeline.mask_settings import IGNORE_LABEL
from ubgen_pipeline.mini.scenes import CLASS_NAMES, scenes


@dataclass(frozen=True)
class MaskedImages:
    """Rows with ``image`` and ``mask`` (mode L: 0 background, 1 + label, 255 ignore), and the names of C classes."""

    rows: Dataset
    class_names: list[str]


def load_masked_images(source: str, split: str = "train", *, skip_damaged: bool = False) -> MaskedImages:
    """Read a folder of ``ubgen generate --annotations mask``, a folder of ``save_to_disk``, a Hub id, or
    ``mini:NUMBER`` or ``mini:NUMBER:SEED:BIAS``, that many rendered scenes of the mini world; ``skip_damaged`` leaves
    rows with damaged images or masks out.

    Raises:
        ValueError: nothing there, or no masks, or no class names.
    """
    if source.startswith("mini:"):
        return rendered_scenes(source)
    rows = open_rows(source, split)
    missing = {"image", "mask"} - set(rows.column_names)
    if missing:
        raise ValueError(
            f"dataset is {source!r}, which has no column {sorted(missing)[0]!r}; generate it with --annotations mask."
        )
    names = label_names_of(rows, f"dataset is {source!r}, whose")
    if skip_damaged:
        rows = without_damaged(rows, source, ("image", "mask"))
    return MaskedImages(rows, names)


def rendered_scenes(source: str) -> MaskedImages:
    """The scenes that ``mini:NUMBER:SEED:BIAS`` names; the seed is 0 and the bias 0 where they are not given."""
    try:
        number, seed, bias = (source.split(":")[1:] + ["0", "0"][source.count(":") - 1 :])[:3]
        rendered = list(scenes(int(number), bias=float(bias), seed=int(seed)))
    except ValueError as error:
        raise ValueError(f"dataset is {source!r}; write mini:NUMBER or mini:NUMBER:SEED:BIAS. {error}") from error
    if not rendered:
        raise ValueError(f"dataset is {source!r}; ask for at least one scene.")
    labels = [CLASS_NAMES.index(scene.factors.class_name) for scene in rendered]
    masks = [scene.mask.astype(np.uint8) * (1 + label) for scene, label in zip(rendered, labels)]
    rows = Dataset.from_dict(
        {
            "image": [PilImage.fromarray(scene.image) for scene in rendered],
            "mask": [PilImage.fromarray(mask) for mask in masks],
            "label": labels,
        },
        features=Features({"image": Image(), "mask": Image(), "label": ClassLabel(names=list(CLASS_NAMES))}),
    )
    return MaskedImages(rows, list(CLASS_NAMES))


def check_masks(data: MaskedImages, num_classes: int, argument: str) -> None:
    """Read every mask once.

    Raises:
        ValueError: a mask of another size than its image, of more than one channel, or with a class the model lacks.
    """
    for index in range(len(data.rows)):
        image, mask = as_arrays(read_row(data.rows, index, argument))
        if mask.shape != image.shape[:2]:
            raise ValueError(
                f"{argument}: row {index} has a mask of {mask.shape} beside an image of {image.shape[:2]}; masks must"
                " have one channel and the image's size."
            )
        outside = mask[(mask >= num_classes) & (mask != IGNORE_LABEL)]
        if outside.size:
            raise ValueError(
                f"{argument}: row {index} has class {int(outside[0])} in its mask; {num_classes - 1} classes go from 1"
                f" to {num_classes - 1}, and {IGNORE_LABEL} marks pixels to ignore."
            )


def map_classes(data: MaskedImages, class_names: Sequence[str], argument: str) -> MaskedImages:
    """The data with its mask values put in the order of ``class_names``.

    Raises:
        ValueError: a class of the data that is not among them.
    """
    foreign = [name for name in data.class_names if name not in class_names]
    if foreign:
        raise ValueError(
            f"{argument} has the class {foreign[0]!r}, which the training set lacks; its classes are"
            f" {', '.join(class_names[:20])}."
        )
    if list(data.class_names) == list(class_names):
        return data
    table = np.arange(256, dtype=np.uint8)
    table[1 : 1 + len(data.class_names)] = [1 + list(class_names).index(name) for name in data.class_names]
    masks = [table[as_arrays(data.rows[index])[1]] for index in range(len(data.rows))]
    return MaskedImages(with_masks(data.rows, masks), list(class_names))


def with_masks(rows: Dataset, masks: Sequence[np.ndarray]) -> Dataset:
    """``rows`` with other masks, (H, W) uint8 each, kept in memory."""
    column = Dataset.from_dict(
        {"mask": [PilImage.fromarray(mask) for mask in masks]}, features=Features({"mask": Image()})
    )
    return concatenate_datasets([rows.remove_columns("mask"), column], axis=1)


def as_arrays(row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Image ``(H, W, 3)`` and mask ``(H, W)``, uint8, of a row."""
    return np.asarray(rgb_image(row["image"]), np.uint8), np.asarray(row["mask"], np.uint8)


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows as lists of ``images (3, H, W)`` uint8 and ``labels (H, W)`` int64; sizes may differ."""
    pairs = [as_arrays(row) for row in rows]
    return {
        "images": [torch.from_numpy(image.copy()).permute(2, 0, 1) for image, _ in pairs],
        "labels": [torch.from_numpy(mask.astype(np.int64)) for _, mask in pairs],
    }


class RandomViews:
    """Random crop, flip and colour of image and mask together; ``size`` is the side that training sees.

    Args:
        size: pixels of the square views.
        min_scale: smallest share of the image's area that a crop takes, in (0, 1]; 1 takes all of it.
        colour: strength of the change of brightness, contrast, saturation and hue, in [0, 1]; 0 leaves colours.
    """

    def __init__(self, size: int, min_scale: float = 0.5, colour: float = 0.2):
        steps: list[Any] = [
            v2.RandomResizedCrop(size, scale=(min_scale, 1.0), ratio=(1.0, 1.0), antialias=True)
            if min_scale < 1
            else v2.Resize((size, size), antialias=True),
            v2.RandomHorizontalFlip(),
        ]
        if colour > 0:
            steps.append(v2.ColorJitter(colour, colour, colour, min(colour / 4, 0.5)))
        self._transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])

    def __call__(
        self, images: Sequence[torch.Tensor], masks: Sequence[torch.Tensor], seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``(B, 3, S, S)`` float32 in [0, 1] and ``(B, S, S)`` int64; equal seeds give equal views."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            views = [
                self._transform(tv_tensors.Image(image), tv_tensors.Mask(mask)) for image, mask in zip(images, masks)
            ]
        return torch.stack([image for image, _ in views]), torch.stack([mask for _, mask in views]).long()

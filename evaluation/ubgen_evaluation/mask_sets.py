"""COCO and ADE20K with their masks, read from the folders they are distributed as; nothing is downloaded.

    COCO      annotations/instances_SPLIT.json beside SPLIT/
    ADE20K    images/SPLIT/NAME.jpg beside annotations/SPLIT/NAME.png (the scene-parsing release, 150 classes)

Shapes: H x W pixels, K classes. In every mask 0 to K - 1 are classes and 255 is ignored.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ubgen_pipeline.mask_settings import IGNORE_LABEL


@dataclass(frozen=True)
class MaskedImage:
    """A file, and its mask ``(H, W)`` uint8 where a class is its position in the set's names."""

    file: Path
    mask: np.ndarray


class CocoMasks:
    """COCO's images with semantic masks: 0 is background, k the k-th category; crowds are ignored.

    Where objects overlap, the smaller one is in front. For boxes and instances use ``pycocotools`` itself, on
    ``annotations``.

    Args:
        folder: holds ``annotations`` and the split's images.
        split: such as ``val2017``.

    Raises:
        ValueError: no annotations, unreadable ones, an image that is not there, or a category without an object.
    """

    def __init__(self, folder: str | Path, split: str = "val2017"):
        self.folder = Path(folder).expanduser()
        file = self.folder / "annotations" / f"instances_{split}.json"
        try:
            record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            self.annotations: list[dict[str, Any]] = record["annotations"]
            self.images: list[dict[str, Any]] = sorted(record["images"], key=lambda image: image["id"])
            categories = sorted(record["categories"], key=lambda category: category["id"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} could not be read as COCO's annotations: {error!r}") from error
        self.class_names = ("background", *(category["name"] for category in categories))
        self._label = {category["id"]: position for position, category in enumerate(categories, start=1)}
        self._split = split
        missing = [image["file_name"] for image in self.images if not (self._file(image)).is_file()]
        if missing:
            raise ValueError(
                f"{file} names {missing[0]}, which is not in {self.folder / split} ({len(missing)} are not)."
            )
        unused = [c["name"] for c in categories if c["id"] not in {one["category_id"] for one in self.annotations}]
        if unused:
            raise ValueError(f"{file}: the class {unused[0]!r} has no object ({len(unused)} classes have none).")

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[MaskedImage]:
        own: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        for annotation in self.annotations:
            own.setdefault(annotation["image_id"], []).append(annotation)
        for image in self.images:
            mask = np.zeros((image["height"], image["width"]), dtype=np.uint8)
            for annotation in sorted(own[image["id"]], key=lambda one: -one["area"]):
                covered = self._covered(annotation, *mask.shape)
                mask[covered] = IGNORE_LABEL if annotation.get("iscrowd") else self._label[annotation["category_id"]]
            yield MaskedImage(self._file(image), mask)

    def _file(self, image: dict[str, Any]) -> Path:
        return self.folder / self._split / image["file_name"]

    def _covered(self, annotation: dict[str, Any], height: int, width: int) -> np.ndarray:
        """``(H, W)`` bool of one object, from polygons or run lengths."""
        from pycocotools import mask as run_lengths

        shape = annotation["segmentation"]
        if isinstance(shape, list):
            encoded: Any = run_lengths.merge(run_lengths.frPyObjects(shape, height, width))
        else:
            # a crowd's counts are a list, a compressed object's a string
            encoded = run_lengths.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape
        return run_lengths.decode(encoded).astype(bool)


class Ade20kMasks:
    """ADE20K's 150 classes; what is labelled 0, anything else, is ignored.

    Args:
        folder: holds ``images`` and ``annotations``, and perhaps ``objectInfo150.txt``.
        split: ``training`` or ``validation``.

    Raises:
        ValueError: a folder or a mask is missing, or there is no image.
    """

    num_classes = 150

    def __init__(self, folder: str | Path, split: str = "validation"):
        base = Path(folder).expanduser()
        self.files = sorted((base / "images" / split).glob("*.jpg"))
        if not self.files:
            raise ValueError(f"folder {base / 'images' / split} holds no images; unpack ADE20K's scene parsing there.")
        self._masks = [base / "annotations" / split / f"{file.stem}.png" for file in self.files]
        missing = [mask for mask in self._masks if not mask.is_file()]
        if missing:
            raise ValueError(
                f"file {missing[0]} is missing: {missing[0].stem}.jpg has no mask ({len(missing)} have none)."
            )

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[MaskedImage]:
        for file, mask_file in zip(self.files, self._masks):
            try:
                with Image.open(mask_file) as opened:
                    labels = np.asarray(opened)
            except (OSError, SyntaxError) as error:
                raise ValueError(f"file {mask_file} could not be read as a mask: {error}") from error
            if labels.ndim != 2 or labels.max() > self.num_classes:
                raise ValueError(f"file {mask_file} holds {labels.max()}; a mask has one channel, 0 to 150.")
            # 0 wraps round to 255, which is ignored
            yield MaskedImage(file, (labels.astype(np.uint8) - np.uint8(1)))

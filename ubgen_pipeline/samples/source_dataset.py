"""A dataset to start from: its images, labels and masks for the tasks image-to-image and inpainting.

Importable without torch. Masks are ubgen's: 0 background, 1 + label, 255 ignore.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from ..dataset.columns import known_label
from ..dataset.damaged_images import read_row, without_damaged
from ..dataset.reader import label_names_of, open_rows
from ..files.image_codecs import rgb_image
from ..mask_settings import IGNORE_LABEL
from ..models.sources import public_name

TASKS = ("text-to-image", "image-to-image", "inpaint")
REGIONS = ("object", "background")


@dataclass(frozen=True)
class SourceRow:
    """One row of the source, cut to the size of the images to be drawn.

    ``label`` counts in the new dataset's classes, as do the values of ``mask (H, W)`` uint8, which is None where the
    source has none. ``region (H, W)`` bool is what inpainting draws anew.
    """

    index: int
    image: Image.Image
    label: int
    mask: np.ndarray | None
    region: np.ndarray | None


class SourceDataset:
    """The rows of a dataset, with their labels in the classes of the dataset that is made from it.

    Args:
        source: folder or Hub id.
        split: of it.
        class_names: names of the new dataset's classes, in label order; None takes the source's own.
        class_map: the class, by name, that stands for one of the source's; names not in it stand for themselves.

    Raises:
        ValueError: nothing there, no images or class names, or a class that maps to none.
    """

    def __init__(
        self,
        source: str,
        split: str,
        class_names: Sequence[str] | None = None,
        class_map: Mapping[str, str] | None = None,
    ):
        self.source, self.split, self.rows = source, split, open_rows(source, split, argument="source")
        if "image" not in self.rows.column_names:
            raise ValueError(f"source is {source!r}, which has no column 'image'; give an image dataset.")
        self.class_names = label_names_of(self.rows, f"source is {source!r}, whose")
        self.has_masks = "mask" in self.rows.column_names
        targets = [(class_map or {}).get(name, name) for name in self.class_names]
        if unknown := set(class_map or {}) - set(self.class_names):
            raise ValueError(f"source_class_map names {sorted(unknown)[0]!r}, which the source lacks; leave it out.")
        names = list(dict.fromkeys(targets)) if class_names is None else list(class_names)
        used = set(self.rows["label"])
        if missing := [name for label, name in enumerate(targets) if name not in names and label in used]:
            raise ValueError(
                f"the source's class {missing[0]!r} is none of the classes {', '.join(names[:20])}; add it, or map it"
                " with source_class_map NAME=CLASS."
            )
        self.new_names = names
        self._new_labels = [names.index(name) if name in names else -1 for name in targets]

    def leave_out_damaged(self) -> None:
        """Leave out the rows whose images cannot be decoded, and say how many."""
        self.rows = without_damaged(self.rows, self.source)

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self) -> list[int]:
        """The new label of every row.

        Raises:
            ValueError: a row without a label.
        """
        return [self._new_label(label, index) for index, label in enumerate(self.rows["label"])]

    def _new_label(self, label: int | None, index: int) -> int:
        if (own := known_label(label)) is None:
            raise ValueError(
                f"row {index} of source {self.source!r} has no label, so nothing says what is drawn of it; leave such"
                " rows out of the source."
            )
        return self._new_labels[own]

    def row(self, index: int, size: tuple[int, int], region: str | None = None, margin: int = 0) -> SourceRow:
        """A row cut about its centre to ``size`` (H, W).

        Args:
            index: of the row.
            size: in pixels.
            region: ``object``: what the mask gives to the row's label; ``background``: its class 0; None: no region.
            margin: pixels that the region is grown by.

        Raises:
            ValueError: a row without a label, a mask of another size than the image, or no such region.
        """
        entry = read_row(self.rows, index, f"source {self.source!r}")
        label = self._new_label(entry["label"], index)
        image = ImageOps.fit(
            rgb_image(entry["image"], f"row {index} of the source"), (size[1], size[0]), Image.Resampling.BICUBIC
        )
        if not self.has_masks:
            return SourceRow(index, image, label, None, None)
        if entry["mask"].size != entry["image"].size or entry["mask"].mode not in ("L", "P", "1"):
            raise ValueError(
                f"row {index} of the source has a mask of {entry['mask'].size} and mode {entry['mask'].mode} beside an"
                f" image of {entry['image'].size}; masks must have one channel and the image's size."
            )
        # "P" holds classes as palette indices, which a conversion to "L" would turn into colours
        mask = Image.fromarray(np.asarray(entry["mask"], np.uint8))
        values = self._relabelled(np.asarray(ImageOps.fit(mask, (size[1], size[0]), Image.Resampling.NEAREST)), index)
        return SourceRow(index, image, label, values, _region(values, label, region, margin, index))

    def _relabelled(self, mask: np.ndarray, index: int) -> np.ndarray:
        table = np.full(256, -1)
        table[0], table[IGNORE_LABEL] = 0, IGNORE_LABEL
        for old, new in enumerate(self._new_labels):
            # classes that are not taken over are part of the background
            table[1 + old] = 1 + new
        values = table[mask]
        if (values < 0).any():
            raise ValueError(
                f"row {index} of the source has class {int(mask[values < 0][0])} in its mask; its classes go from 1 to"
                f" {len(self.class_names)}, and {IGNORE_LABEL} marks pixels to ignore."
            )
        return values.astype(np.uint8)

    def fingerprint(self) -> str:
        """SHA-256 of the source's files, where they are here; a Hub id stands for itself."""
        folder = Path(self.source).expanduser()
        if not folder.exists():
            return self.source
        digest = hashlib.sha256()
        for file in sorted(file for file in folder.rglob("*") if file.is_file() and ".ubgen" not in file.parts):
            with open(file, "rb") as stream:
                digest.update(
                    f"{file.relative_to(folder)}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode()
                )
        return digest.hexdigest()

    def public_name(self) -> str:
        """The source's name as it may be published: of a folder here, its last part only."""
        return public_name(self.source) or self.source


def _region(mask: np.ndarray, label: int, region: str | None, margin: int, index: int) -> np.ndarray | None:
    if region is None:
        return None
    marked = mask == (1 + label if region == "object" else 0)
    if not marked.any():
        raise ValueError(f"row {index} of the source has no {region} in its mask; leave such rows out of the source.")
    if margin:
        grown = Image.fromarray(marked.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * margin + 1))
        marked = np.asarray(grown) > 0
    return marked

"""The rows of a finished dataset with their masks and objects, for exporting: a view of :class:`.reader.StoredRows`.

The columns that exporters read, as ``ubgen generate`` writes them; others are carried along where a format has room:

    image       PNG or JPEG
    label       ClassLabel: the class the image was drawn for
    index       the row's number, unique
    mask        PNG of the image's size: 0 background, label + 1, 255 ignore
    instances   PNG of that size: 0 nothing, i + 1 object i
    objects     of each object: bbox, category, area, score, polygons; see `columns.py`
"""

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image

from ..files.image_codecs import DamagedImageError, plain_suffix, png_bytes, read_rgb
from ..files.places import Place, opened
from ..mask_regions import connected_regions, polygon_area, region_box, region_of_outlines, region_outlines
from ..mask_settings import IGNORE_LABEL
from .columns import OBJECTS_COLUMN, StoredObject, known_label, read_objects
from .reader import StoredRows


@dataclass(frozen=True)
class AnnotatedObject:
    """One object of an image.

    Attributes:
        label: its class.
        box: (x0, y0, x1, y1) in pixels, end exclusive.
        area: pixels of its region; of its box where no mask tells.
        score: how sure the dataset is of it in [0, 1]; None where it does not say.
        region: ``(H, W)`` bool, or None.
        stored_outlines: those of the dataset, where they enclose the region; None where it has none.
    """

    label: int
    box: tuple[float, float, float, float]
    area: int
    score: float | None = None
    region: np.ndarray | None = None
    stored_outlines: list[np.ndarray] | None = None

    @property
    def is_box(self) -> bool:
        """Whether nothing but its box is known."""
        return self.region is None and self.stored_outlines is None

    def within(self, size: tuple[int, int]) -> "AnnotatedObject | None":
        """The object as far as it lies in an image of that (width, height); None where no pixel of it does."""
        if self.region is not None:
            return self if self.area else None
        x0, y0, x1, y1 = self.box
        inside = (max(x0, 0), max(y0, 0), min(x1, size[0]), min(y1, size[1]))
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            return None
        if inside == self.box or not self.is_box:
            return self
        return replace(self, box=inside, area=round((inside[2] - inside[0]) * (inside[3] - inside[1])))

    @cached_property
    def outlines(self) -> list[np.ndarray]:
        """Closed outlines ``(P, 2)`` as :func:`.mask_regions.region_outlines` gives them; without a region the box."""
        if self.stored_outlines is not None:
            return self.stored_outlines
        if self.region is not None:
            return region_outlines(self.region)
        x0, y0, x1, y1 = self.box
        return [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])]


@dataclass(frozen=True)
class AnnotatedRow:
    """One image with all that is known about it.

    Attributes:
        index: unique number.
        image: the file's bytes, or those of a PNG where not every reader would show the stored file as it is.
        suffix: ``.png``, ``.jpg`` or what else they are.
        size: (width, height) in pixels, upright.
        label: its class; None where the dataset has no labels.
        mask: ``(H, W)`` uint8, or None.
        objects: its objects, or None where the dataset tells of none.
        values: all columns, images undecoded.
        is_rewritten: whether ``image`` is not the stored file.
    """

    index: int
    image: bytes
    suffix: str
    size: tuple[int, int]
    label: int | None
    mask: np.ndarray | None
    objects: list[AnnotatedObject] | None
    values: dict[str, Any] = field(repr=False)
    is_rewritten: bool = False

    @property
    def name(self) -> str:
        """What the row's files are called, without suffix."""
        return f"{self.index:08d}"

    def decoded(self) -> Image.Image:
        """The image as RGB."""
        return read_rgb(self.image, f"row {self.index}, column 'image',")


class AnnotatedRows:
    """A finished dataset's rows, read one after the other.

    Args:
        folder: a dataset's folder or address, with ``data/train-*.parquet``.

    Raises:
        ValueError: no dataset there, or one that is not finished.
    """

    def __init__(self, folder: str | Place):
        self.stored = StoredRows(folder)
        self.folder, self.features = self.stored.folder, self.stored.features

    @property
    def class_names(self) -> list[str]:
        """In the order of their labels."""
        return self.stored.label_names

    @property
    def has_masks(self) -> bool:
        return "mask" in self.features

    @property
    def has_objects(self) -> bool:
        return "mask" in self.features or "objects" in self.features

    @property
    def image_columns(self) -> list[str]:
        """Columns with an image beside the row's own, such as masks."""
        return [name for name, item in self.features.items() if name != "image" and type(item).__name__ == "Image"]

    @property
    def image_list_columns(self) -> list[str]:
        """Columns with a list of images, such as heat maps."""
        inner = {name: getattr(item, "feature", None) for name, item in self.features.items()}
        return [name for name, item in inner.items() if type(item).__name__ == "Image"]

    def longest_list(self, column: str) -> int:
        """Most images that a row has in a column of lists of images, none of which is read."""
        longest = 0
        for file in self.stored.files:
            with parquet.ParquetFile(opened(file)) as stream:
                leaves = [stream.schema.column(place).path for place in range(len(stream.schema))]
                leaf = next(path for path in leaves if path.startswith(f"{column}.") and path.endswith(".path"))
                for batch in stream.iter_batches(columns=[leaf]):
                    longest = int(np.diff(batch[column].offsets.to_numpy()).max(initial=longest))
        return longest

    def __len__(self) -> int:
        return len(self.stored)

    def __iter__(self) -> Iterator[AnnotatedRow]:
        """The rows in order, a few in memory at a time.

        Raises:
            ValueError: a mask of another size than its image, a mask value that is no class, a row without image, an
                index that occurs twice.
        """
        self._check_indices()
        for position, values in enumerate(self.stored):
            yield self._row(values, position)

    def _check_indices(self) -> None:
        """Files and ids are named after the column, whose numbers are few bytes beside the rest of the rows."""
        indices = self.stored.indices()
        values, counts = np.unique(indices, return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"index {values[counts > 1][0]} occurs twice in {str(self.folder)!r}; number the rows.")

    def _row(self, values: dict[str, Any], position: int) -> AnnotatedRow:
        index = values.get("index")
        index = position if index is None else int(index)
        data = stored_bytes(values.get("image"), f"row {index} has no image")
        what = f"row {index}, column 'image',"
        suffix, size = plain_suffix(data, what)
        is_rewritten = suffix is None
        if suffix is None:
            data, suffix = png_bytes(read_rgb(data, what)), ".png"
        mask = self._array("mask", values, index, size)
        if mask is not None:
            wrong = [value for value in np.unique(mask) if value != IGNORE_LABEL and value > len(self.class_names)]
            if wrong:
                raise ValueError(
                    f"the mask of row {index} holds {wrong[0]}, which is label {wrong[0] - 1} of"
                    f" {len(self.class_names)} classes; a mask holds 0, label + 1, or {IGNORE_LABEL} to ignore."
                )
        instances = self._array("instances", values, index, size)
        told = values.get(OBJECTS_COLUMN)
        for label in (told or {}).get("category", ()):
            if label is None or not 0 <= label < len(self.class_names):
                raise ValueError(
                    f"row {index} has an object of the category {label}; labels are 0 to {len(self.class_names) - 1}."
                    " Correct it, or leave the object out."
                )
        objects = _objects(told, mask, instances, size)
        label = known_label(values.get("label"))
        return AnnotatedRow(index, data, suffix, size, label, mask, objects, values, is_rewritten)

    def _array(self, column: str, values: dict[str, Any], index: int, size: tuple[int, int]) -> np.ndarray | None:
        if values.get(column) is None:
            return None
        try:
            with Image.open(io.BytesIO(stored_bytes(values[column], f"row {index} has an empty {column}"))) as image:
                array = np.asarray(image)
        except (OSError, SyntaxError) as error:
            raise DamagedImageError(f"row {index}, column {column!r},", str(error)) from error
        if image.size != size:
            raise ValueError(
                f"the {column} of row {index} is {image.size[0]} x {image.size[1]} pixels and its image"
                f" {size[0]} x {size[1]}; make them the same."
            )
        if array.ndim != 2:
            raise ValueError(f"the {column} of row {index} has {array.shape[2]} channels; give one of whole numbers.")
        return array


def label_of(row: AnnotatedRow) -> int:
    """The row's label.

    Raises:
        ValueError: it has none.
    """
    if row.label is None:
        raise ValueError(f"row {row.index} has no label; this format needs one for each image.")
    return row.label


def stored_bytes(value: Any, complaint: str) -> bytes:
    """The file of an image column's value; ``ValueError`` with the complaint where none is stored."""
    if not value or not value.get("bytes"):
        raise ValueError(f"{complaint} inside its parquet file; embed it.")
    return value["bytes"]


def _objects(
    told: dict[str, list[Any]] | None, mask: np.ndarray | None, instances: np.ndarray | None, size: tuple[int, int]
) -> list[AnnotatedObject] | None:
    """The objects that the row tells of, with their regions; else the mask's connected regions."""
    if told is None:
        if mask is None:
            return None
        return [
            AnnotatedObject(int(value) - 1, box, int(region.sum()), region=region)
            for value, box, region in connected_regions(mask, skip=(0, IGNORE_LABEL))
        ]
    objects = []
    for number, item in enumerate(read_objects(told)):
        region, outlines = None, item.outlines
        if instances is not None:
            region = instances == number + 1
        elif mask is not None:
            region = _region_in(mask == item.label + 1, item)
        if outlines is not None:
            enclosed = _enclosed(outlines, size)
            if region is None and enclosed is not None and enclosed.sum() == item.area:
                region = enclosed
            elif region is None or enclosed is None or not np.array_equal(enclosed, region):
                # where the two differ, the pixels count
                outlines = None
            if outlines is not None and region is not None and sum(map(polygon_area, outlines)) != region.sum():
                # holes that do not run the other way round
                outlines = None
        area = item.area if region is None else int(region.sum())
        objects.append(AnnotatedObject(item.label, item.box, area, item.score, region, outlines))
    return objects


def _region_in(same: np.ndarray, item: StoredObject) -> np.ndarray | None:
    """The object's pixels ``(H, W)`` bool among those of its class, where there is no map of instances.

    They are the connected region with its box and area, or all regions in the box where these have its area together,
    or else the one with its box.
    """
    x0, y0, x1, y1 = (int(side) for side in item.box)
    together, like_it = np.zeros_like(same), None
    for _, box, region in connected_regions(same, skip=(False,)):
        if box == item.box:
            like_it = region
            if region.sum() == item.area:
                return region
        if x0 <= box[0] and y0 <= box[1] and box[2] <= x1 and box[3] <= y1:
            together |= region
    return together if together.sum() == item.area > 0 and region_box(together) == item.box else like_it


def _enclosed(outlines: list[np.ndarray], size: tuple[int, int]) -> np.ndarray | None:
    """The region ``(H, W)`` bool within outlines; None where they follow no borders of pixels. ``size`` is (W, H)."""
    try:
        return region_of_outlines(outlines, (size[1], size[0]))
    except ValueError:
        return None


def json_value(value: Any) -> Any:
    """A column's value as what JSON can hold: numbers that are not finite as None, bytes in base64, dates as texts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)

"""Single rows of a dataset, read by row group: a page of images never costs more than the groups that hold it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from dataset_view import DatasetView
from parquet_files import open_parquet
from PIL import Image

from ubgen_pipeline.dataset.columns import OBJECTS_COLUMN, box_corners

MAX_GROUP_BYTES = 96 * 2**20
MAX_PIXELS = 4096 * 4096
THUMBNAIL_SIDE = 512


@dataclass(frozen=True)
class DatasetRow:
    """One row: its dataset and place there, its image and annotations, and its other columns as text."""

    source_name: str
    position: int
    image: Image.Image
    fields: dict[str, str]
    mask: np.ndarray | None = None
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)


def find_rows(view: DatasetView, label: int | None, start: int, count: int) -> list[tuple[int, int]]:
    """(file, row in it) of rows ``start`` to ``start + count`` of a class, or of the dataset for None."""
    places: list[tuple[int, int]] = []
    skipped = 0
    for number, labels in enumerate(view.labels):
        rows = np.arange(len(labels)) if label is None else np.flatnonzero(labels == label)
        first = max(0, start - skipped)
        places += [(number, int(row)) for row in rows[first : first + count - len(places)]]
        skipped += len(rows)
        if len(places) >= count:
            break
    return places


def read_rows(view: DatasetView, label: int | None, start: int, count: int) -> list[DatasetRow]:
    """Rows of a class with their images; row groups that hold none of them are not read.

    Raises:
        ValueError: no column of images, a row group too large to be read here, or an unreadable file.
    """
    if view.image_column is None:
        raise ValueError("Dataset: it has no column of images.")
    offsets = np.cumsum([0, *map(len, view.labels)])
    rows: list[DatasetRow] = []
    places = find_rows(view, label, start, count)
    for number in dict.fromkeys(number for number, _ in places):
        wanted = [row for other, row in places if other == number]
        with open_parquet(view.source, view.source.files[number]) as parquet:
            for position, values in _values(parquet, wanted):
                row = _row(view, int(offsets[number]) + position, values)
                if row is not None:
                    rows.append(row)
    return rows


def unread_rows(view: DatasetView, label: int | None, start: int, count: int, rows: Sequence[DatasetRow]) -> list[int]:
    """The rows of a class without an image that can be shown: damaged, missing, too large, or not inside its file.

    Args:
        view, label, start, count: as :func:`read_rows` took them.
        rows: what it gave.
    """
    offsets = np.cumsum([0, *map(len, view.labels)])
    wanted = [int(offsets[number]) + row for number, row in find_rows(view, label, start, count)]
    return sorted(set(wanted) - {row.position for row in rows})


def _values(parquet: pq.ParquetFile, wanted: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
    first, found = 0, []
    for group in range(parquet.metadata.num_row_groups):
        metadata = parquet.metadata.row_group(group)
        inside = [row for row in wanted if first <= row < first + metadata.num_rows]
        if inside:
            if metadata.total_byte_size > MAX_GROUP_BYTES:
                raise ValueError(
                    f"Dataset: a row group of it holds {metadata.total_byte_size >> 20} MiB; at most"
                    f" {MAX_GROUP_BYTES >> 20} are read here."
                )
            table = parquet.read_row_group(group).take([row - first for row in inside])
            found += zip(inside, table.to_pylist())
        first += metadata.num_rows
    return found


def _row(view: DatasetView, position: int, values: dict[str, Any]) -> DatasetRow | None:
    image = _image(values.get(view.image_column or ""))
    if image is None:
        return None
    mask = _image(values.get("mask"), mode="L")
    objects = values.get(OBJECTS_COLUMN)
    boxes = objects.get("bbox") if isinstance(objects, dict) else None
    fields = {}
    for name, value in values.items():
        if name == view.label_column and isinstance(value, int) and 0 <= value < len(view.class_names):
            fields[name] = f"{value} ({view.class_names[value]})"
        elif isinstance(value, (str, int, float)):
            fields[name] = str(value)
    scale = min(1.0, THUMBNAIL_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return DatasetRow(
        view.source.name,
        position,
        image.resize(size),
        fields,
        # nearest: values between two labels mean nothing
        np.asarray(mask.resize(size, Image.Resampling.NEAREST)) if mask and mask.size == image.size else None,
        [(scale * x0, scale * y0, scale * x1, scale * y1) for x0, y0, x1, y1 in map(box_corners, _boxes(boxes))],
    )


def _boxes(boxes: Any) -> list[list[float]]:
    if not isinstance(boxes, list):
        return []
    return [box for box in boxes if isinstance(box, list) and len(box) == 4 and None not in box][:100]


def _image(value: Any, mode: str = "RGB") -> Image.Image | None:
    """The image of a cell's bytes. A path in a cell is never opened: it would be one on this machine."""
    content = value.get("bytes") if isinstance(value, dict) else None
    if not isinstance(content, bytes):
        return None
    try:
        image = Image.open(io.BytesIO(content))
        return image.convert(mode) if image.width * image.height <= MAX_PIXELS else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None

"""Export to ImageFolder: a folder of images for each class, masks and other images beside them, and a table.

train/images/<label>_<class>/<index>.png
train/mask/<index>.png, train/heatmaps/<index>_0.png …
train/metadata.parquet

A folder of the Hub holds 10,000 files. Where a class has more images, they lie in
``<label>_<class>/<number>/<label>_<class>/``: torchvision names classes after the first folder, ``datasets`` without
the table after the last.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from ..dataset.annotated_rows import AnnotatedRow, AnnotatedRows, label_of, stored_bytes

_ROWS_AT_ONCE = 256
FILES_PER_FOLDER = 10_000
_NAME_BYTES = 200
# datasets takes a folder with one of these words in its name for a split
_SPLIT_WORDS = {"train", "training", "validation", "valid", "dev", "val", "test", "testing", "eval", "evaluation"}


def class_folder(label: int, names: list[str]) -> str:
    """Folder of a class: its label, so that the folders' alphabetical order is the labels', and its name."""
    number = f"{label:0{max(len(str(len(names) - 1)), 2)}d}"
    name = re.sub(r"[^\w()+-]+", "_", names[label]).strip("_")[:100]
    # file systems count bytes, of which a letter may have four
    name = name.encode()[:_NAME_BYTES].decode(errors="ignore")
    if not name or _SPLIT_WORDS & set(re.split(r"[\W_0-9]+", name.casefold())):
        return number
    return f"{number}_{name}"


def placed_name(name: str, position: int, num_rows: int) -> str:
    """A row's file name without suffix, in a numbered folder where one folder cannot hold the files of all rows.

    Args:
        name: of the row.
        position: of the row among all.
        num_rows: of the dataset.
    """
    return name if num_rows <= FILES_PER_FOLDER else f"{position // FILES_PER_FOLDER:04d}/{name}"


def write_file(file: Path, data: bytes) -> None:
    """Write a file, and its folder before it where it is the first there."""
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)


def check_no_gap(counts: Mapping[int, int], names: list[str], empty_classes: str | None) -> None:
    """Refuse classes without images before others that have some, which readers of folders would number anew.

    Args:
        counts: images of each label.
        names: of the classes, in the order of their labels.
        empty_classes: what the user wants of such classes: ``keep`` or ``drop``.
    """
    last = max((label for label in counts if counts[label]), default=-1)
    empty = [names[label] for label in range(last) if not counts.get(label)]
    if empty and empty_classes is None:
        raise ValueError(
            f"{len(empty)} classes have no image ({', '.join(empty[:5])}{' …' if len(empty) > 5 else ''});"
            " torchvision's ImageFolder numbers the folders that are there, so later classes would get other labels."
            " Set empty_classes: keep writes empty folders, which it reads with allow_empty=True; drop leaves them"
            " out, so that labels are right in metadata.parquet alone."
        )


def write_imagefolder(
    source: AnnotatedRows,
    rows: Iterable[AnnotatedRow],
    folder: Path,
    *,
    counts: Mapping[int, int],
    empty_classes: str | None = None,
) -> None:
    """``train/`` with images by class, masks, and a table with all other columns and their features.

    ``datasets.load_dataset("imagefolder", data_dir=…)`` gives the columns back, ``ClassLabel`` and objects included;
    ``torchvision.datasets.ImageFolder`` reads ``train/images``.

    Args:
        source: where the rows come from.
        rows: the rows to write.
        folder: an empty folder.
        counts: images of each label among the rows.
        empty_classes: what becomes of classes without images: ``keep`` or ``drop``; see :func:`check_no_gap`.

    Raises:
        ValueError: a class without images before others, and ``empty_classes`` is None.
    """
    from datasets import Features, List, Value

    root = folder / "train"
    names = source.class_names
    check_no_gap(counts, names, empty_classes)
    folders = [class_folder(label, names) for label in range(len(names))]
    are_split, num_written = max(counts.values(), default=0) > FILES_PER_FOLDER, Counter[int]()
    extra = {name: _Files(root, name, sum(counts.values())) for name in source.image_columns}
    for name in source.image_list_columns:
        extra[name] = _Files(root, name, sum(counts.values()) * source.longest_list(name))
    columns: dict[str, Any] = {"file_name": Value("string")}
    columns |= {f"{name}_file_name": Value("string") for name in source.image_columns}
    columns |= {f"{name}_file_names": List(Value("string")) for name in source.image_list_columns}
    taken = {"image", *source.image_columns, *source.image_list_columns}
    columns |= {name: feature for name, feature in source.features.items() if name not in taken}
    if taken_names := [name for name in source.features if name.endswith(("file_name", "file_names"))]:
        raise ValueError(
            f"the dataset has a column {taken_names[0]!r}, and ImageFolder's table says by such names where images"
            " lie; rename it."
        )
    features = Features(columns)
    (root / "images").mkdir(parents=True)
    for label, name in enumerate(folders):
        if counts.get(label) or empty_classes == "keep":
            (root / "images" / name).mkdir()
    with parquet.ParquetWriter(root / "metadata.parquet", features.arrow_schema) as table:
        batch: list[dict[str, Any]] = []
        for row in rows:
            label = label_of(row)
            values = {name: row.values.get(name) for name in columns}
            place = f"images/{folders[label]}"
            if are_split:
                place += f"/{num_written[label] // FILES_PER_FOLDER:04d}/{folders[label]}"
                (root / place).mkdir(parents=True, exist_ok=True)
            num_written[label] += 1
            values["file_name"] = f"{place}/{row.name}{row.suffix}"
            (root / values["file_name"]).write_bytes(row.image)
            for name in source.image_columns:
                if row.values.get(name) is not None:
                    values[f"{name}_file_name"] = extra[name].write(f"{row.name}.png", row.values[name])
            for name in source.image_list_columns:
                values[f"{name}_file_names"] = [
                    extra[name].write(f"{row.name}_{number}.png", image)
                    for number, image in enumerate(row.values.get(name) or [])
                ]
            batch.append(values)
            if len(batch) == _ROWS_AT_ONCE:
                table.write_table(pa.Table.from_pylist(batch, schema=features.arrow_schema))
                batch = []
        if batch:
            table.write_table(pa.Table.from_pylist(batch, schema=features.arrow_schema))


class _Files:
    """Writes the images of one column, into numbered folders where one cannot hold them all."""

    def __init__(self, root: Path, name: str, most: int):
        self._root, self._name, self._are_split, self._number = root, name, most > FILES_PER_FOLDER, 0

    def write(self, file_name: str, image: dict[str, Any]) -> str:
        """Write an image, and give its name below the root."""
        folder = f"{self._name}/{self._number // FILES_PER_FOLDER:04d}" if self._are_split else self._name
        self._number += 1
        (self._root / folder).mkdir(parents=True, exist_ok=True)
        (self._root / folder / file_name).write_bytes(
            stored_bytes(image, f"{file_name} of column {self._name!r} is not")
        )
        return f"{folder}/{file_name}"

"""Exports for image classification readers: ImageFolder with a metadata table, and WebDataset tar files.

images/, masks/ …         ImageFolder: train/images/<label>_<class>/<index>.png, train/metadata.parquet
train-000000.tar …        WebDataset: <index>.png, .cls, .json, .mask.png, .instances.png
"""

import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from ..dataset.annotated_rows import AnnotatedRow, AnnotatedRows, public_values

SAMPLES_PER_TAR = 1000
_ROWS_AT_ONCE = 256
# datasets takes a folder with one of these words in its name for a split
_SPLIT_WORDS = {"train", "training", "validation", "valid", "dev", "val", "test", "testing", "eval", "evaluation"}


def class_folder(label: int, names: list[str]) -> str:
    """Folder of a class: its label, so that the folders' alphabetical order is the labels', and its name."""
    number = f"{label:0{max(len(str(len(names) - 1)), 2)}d}"
    name = re.sub(r"[^\w()+-]+", "_", names[label]).strip("_")[:100]
    if not name or _SPLIT_WORDS & set(re.split(r"[\W_0-9]+", name.casefold())):
        return number
    return f"{number}_{name}"


def write_imagefolder(source: AnnotatedRows, rows: Iterable[AnnotatedRow], folder: Path) -> None:
    """``train/`` with images by class, masks, and a table with all other columns and their features.

    ``datasets.load_dataset("imagefolder", data_dir=…)`` gives the columns back, ``ClassLabel`` and objects included;
    ``torchvision.datasets.ImageFolder`` reads ``train/images``.
    """
    from datasets import Features, List, Value

    root = folder / "train"
    names = source.class_names
    columns: dict[str, Any] = {"file_name": Value("string")}
    columns |= {f"{name}_file_name": Value("string") for name in source.image_columns}
    columns |= {f"{name}_file_names": List(Value("string")) for name in source.image_list_columns}
    taken = {"image", *source.image_columns, *source.image_list_columns}
    columns |= {name: feature for name, feature in source.features.items() if name not in taken}
    features = Features(columns)
    for label in range(len(names)):
        (root / "images" / class_folder(label, names)).mkdir(parents=True)
    used = set()
    with parquet.ParquetWriter(root / "metadata.parquet", features.arrow_schema) as table:
        batch: list[dict[str, Any]] = []
        for row in rows:
            label = _label(row)
            used.add(label)
            values = {name: row.values.get(name) for name in columns}
            values["file_name"] = f"images/{class_folder(label, names)}/{row.name}{row.suffix}"
            (root / values["file_name"]).write_bytes(row.image)
            for name in source.image_columns:
                if row.values.get(name) is not None:
                    values[f"{name}_file_name"] = _write(root, f"{name}/{row.name}.png", row.values[name])
            for name in source.image_list_columns:
                values[f"{name}_file_names"] = [
                    _write(root, f"{name}/{row.name}_{number}.png", image)
                    for number, image in enumerate(row.values.get(name) or [])
                ]
            batch.append(values)
            if len(batch) == _ROWS_AT_ONCE:
                table.write_table(pa.Table.from_pylist(batch, schema=features.arrow_schema))
                batch = []
        if batch:
            table.write_table(pa.Table.from_pylist(batch, schema=features.arrow_schema))
    for label in set(range(len(names))) - used:
        # torchvision refuses a class without images
        (root / "images" / class_folder(label, names)).rmdir()


def write_webdataset(source: AnnotatedRows, rows: Iterable[AnnotatedRow], folder: Path) -> None:
    """Tar files of ``SAMPLES_PER_TAR`` samples; a sample's members follow each other, as the readers need."""
    iterator = iter(rows)
    for number in itertools.count():
        first = next(iterator, None)
        if first is None:
            return
        with tarfile.open(folder / f"train-{number:06d}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for row in itertools.chain([first], itertools.islice(iterator, SAMPLES_PER_TAR - 1)):
                for suffix, data in _members(source, row).items():
                    entry = tarfile.TarInfo(row.name + suffix)
                    entry.size, entry.mode = len(data), 0o644
                    tar.addfile(entry, io.BytesIO(data))


def _members(source: AnnotatedRows, row: AnnotatedRow) -> dict[str, bytes]:
    """A sample's files by suffix."""
    values = public_values(row)
    if row.objects is not None:
        values["objects"] = [
            {"box": list(item.box), "label": item.label, "area": item.area, "score": item.score}
            for item in row.objects
        ]
    members = {row.suffix: row.image, ".cls": str(_label(row)).encode()}
    members[".json"] = json.dumps(values, ensure_ascii=False).encode()
    for name in source.image_columns:
        if row.values.get(name) is not None:
            members[f".{name}.png"] = row.values[name]["bytes"]
    for name in source.image_list_columns:
        for number, image in enumerate(row.values.get(name) or []):
            members[f".{name}.{number}.png"] = image["bytes"]
    return members


def _write(root: Path, file_name: str, image: dict[str, Any]) -> str:
    """Write an image below ``root`` and give its name back."""
    (root / file_name).parent.mkdir(exist_ok=True)
    (root / file_name).write_bytes(image["bytes"])
    return file_name


def _label(row: AnnotatedRow) -> int:
    if row.label is None:
        raise ValueError(f"row {row.index} has no label; this format needs one for each image.")
    return row.label

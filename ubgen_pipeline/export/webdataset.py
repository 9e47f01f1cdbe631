"""Export to WebDataset: tar files of samples, and a README.md with the columns' types for ``datasets``.

train-000000.tar …    <index>.png, .cls, .json, .mask.png, .heatmaps.0.png, …; 1,000 samples each
README.md             features: `datasets.load_dataset(FOLDER)` gives labels with the names of their classes

``datasets`` asks that all samples have the same members, and takes the types of what is in ``.json`` from the first
five. So a list of images has as many members in each sample as in the longest, black ones at its end; and in ``.json``
what is a list, has parts, or is missing from some row is text, which holds JSON. JSON has neither NaN nor bytes: the
one is missing, the others are in base64.
"""

import io
import itertools
import json
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
from PIL import Image

from ..dataset.annotated_rows import AnnotatedRow, AnnotatedRows, json_value, label_of, stored_bytes
from ..dataset.columns import OBJECTS_COLUMN
from ..files.image_codecs import DamagedImageError, plain_suffix, png_bytes

if TYPE_CHECKING:
    from datasets import Features

SAMPLES_PER_TAR = 1000
_ROWS_AT_ONCE = 64
# of what JSON has numbers, texts and truth values for
_PLAIN_TYPES = ("int", "uint", "float", "bool", "string", "large_string")


def write_webdataset(source: AnnotatedRows, rows: Iterable[AnnotatedRow], folder: Path) -> None:
    """Tar files of ``SAMPLES_PER_TAR`` samples; a sample's members follow each other, as the readers need.

    Raises:
        ValueError: a row without an image of a column that others have.
    """
    members = _Members(source)
    iterator = iter(rows)
    for number in itertools.count():
        first = next(iterator, None)
        if first is None:
            break
        with tarfile.open(folder / f"train-{number:06d}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for row in itertools.chain([first], itertools.islice(iterator, SAMPLES_PER_TAR - 1)):
                for suffix, data in members.of(row).items():
                    entry = tarfile.TarInfo(row.name + suffix)
                    entry.size, entry.mode = len(data), 0o644
                    tar.addfile(entry, io.BytesIO(data))
    (folder / "README.md").write_text(_card(members.features()), encoding="utf-8")


class _Members:
    """The files of each sample, which are the same for all samples of a dataset."""

    def __init__(self, source: AnnotatedRows):
        self._source = source
        self._suffix = _common_suffix(source)
        files = source.stored.files
        self._num_images = {name: source.longest_list(name) for name in source.image_list_columns}
        images = {"image", *source.image_columns, *source.image_list_columns}
        self._empty = {name for name in source.image_columns if _is_missing_everywhere(files, name)}
        if taken := [f"num_{name}" for name in self._num_images if f"num_{name}" in source.features]:
            raise ValueError(
                f"the dataset has a column {taken[0]!r}, where this format writes how many images a row has; rename"
                " it."
            )
        plain = [name for name in source.features if name not in images]
        self._texts = {name for name in plain if _is_text(source, name)}

    def of(self, row: AnnotatedRow) -> dict[str, bytes]:
        """A sample's files by suffix.

        Raises:
            ValueError: an image is missing, or the label.
        """
        image = row.image if row.suffix == self._suffix else png_bytes(row.decoded())
        members = {self._suffix: image, ".cls": str(label_of(row)).encode(), ".json": self._json(row)}
        for name in self._source.image_columns:
            if name not in self._empty:
                members[f".{name}.png"] = _data(row.values.get(name), row, name)
        for name, number in self._num_images.items():
            given = row.values.get(name) or []
            for place in range(number):
                data = _data(given[place], row, name) if place < len(given) else png_bytes(Image.new("L", row.size))
                members[f".{name}.{place}.png"] = data
        return members

    def features(self) -> "Features":
        """Types of the samples as ``datasets`` reads them."""
        from datasets import Features, Value
        from datasets import Image as ImageFeature

        source = self._source
        values: dict[str, Any] = {name: source.features[name] for name in source.features if name in self._plain()}
        values |= {name: Value("string") for name in self._texts}
        values |= {f"num_{name}": Value("int64") for name in self._num_images}
        columns: dict[str, Any] = {self._suffix[1:]: ImageFeature(), "cls": source.features["label"], "json": values}
        columns |= {f"{name}.png": ImageFeature() for name in source.image_columns if name not in self._empty}
        for name, number in self._num_images.items():
            columns |= {f"{name}.{place}.png": ImageFeature() for place in range(number)}
        return Features({**columns, "__key__": Value("string"), "__url__": Value("string")})

    def _json(self, row: AnnotatedRow) -> bytes:
        values: dict[str, Any] = {name: json_value(row.values.get(name)) for name in self._plain()}
        if OBJECTS_COLUMN in self._source.features:
            values[OBJECTS_COLUMN] = None if row.objects is None else [_object(item) for item in row.objects]
            values[OBJECTS_COLUMN] = json_value(values[OBJECTS_COLUMN])
        for name in self._texts:
            values[name] = json.dumps(values.get(name), ensure_ascii=False, allow_nan=False)
        values |= {f"num_{name}": len(row.values.get(name) or []) for name in self._num_images}
        return json.dumps(values, ensure_ascii=False, allow_nan=False).encode()

    def _plain(self) -> list[str]:
        images = {"image", *self._source.image_columns, *self._source.image_list_columns}
        return [name for name in self._source.features if name not in images]


def _object(item: Any) -> dict[str, Any]:
    told = {"box": list(item.box), "label": item.label, "area": item.area, "score": item.score}
    if item.stored_outlines is not None:
        told["polygons"] = [points.reshape(-1).tolist() for points in item.stored_outlines]
    return told


def _data(value: Any, row: AnnotatedRow, name: str) -> bytes:
    if value is None:
        raise ValueError(
            f"row {row.index} has no {name!r}, and all samples of a WebDataset have the same members; leave out the"
            " column or such rows, or export to imagefolder, which has room for missing images."
        )
    return stored_bytes(value, f"{name!r} of row {row.index} is not")


def _common_suffix(source: AnnotatedRows) -> str:
    """That of all images; .png where they have several, which are then all written as PNG."""
    codec = source.stored.manifest.get("codec")
    if codec is not None:
        return {"png": ".png", "jpeg": ".jpg", "webp-lossless": ".webp"}.get(codec, ".png")
    suffixes: set[str] = set()
    for file in source.stored.files:
        with parquet.ParquetFile(file) as stream:
            for batch in stream.iter_batches(_ROWS_AT_ONCE, columns=["image.bytes"]):
                given = [value["bytes"] for value in batch["image"].to_pylist() if value and value["bytes"]]
                # what cannot be read is named when its row is
                suffixes |= {_suffix(data) for data in given}
        if len(suffixes) > 1:
            return ".png"
    return suffixes.pop() if suffixes else ".png"


def _suffix(data: bytes) -> str:
    with suppress(DamagedImageError):
        return plain_suffix(data, "image")[0] or ".png"
    return ".png"


def _is_missing_everywhere(files: Iterable[Path], name: str) -> bool:
    for file in files:
        with parquet.ParquetFile(file) as stream:
            for batch in stream.iter_batches(_ROWS_AT_ONCE, columns=[f"{name}.bytes"]):
                if any(value and value["bytes"] is not None for value in batch[name].to_pylist()):
                    return False
    return True


def _is_text(source: AnnotatedRows, name: str) -> bool:
    """Whether a column's values are JSON texts: no plain number or text, or missing from some rows but not all; what
    is not finite is missing, since JSON has no such numbers."""
    from datasets import ClassLabel, Value

    feature = source.features[name]
    if not isinstance(feature, (ClassLabel, Value)) or not feature.dtype.startswith(_PLAIN_TYPES):
        return True
    columns = [parquet.read_table(file, columns=[name])[name] for file in source.stored.files]
    return 0 < sum(map(_num_missing, columns)) < len(source)


def _num_missing(column: Any) -> int:
    if not pyarrow.types.is_floating(column.type):
        return column.null_count
    # a null becomes NaN
    return int((~np.isfinite(column.cast("float64").to_numpy())).sum())


def _card(features: "Features") -> str:
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    metadata = DatasetCardData(tags=["synthetic", "ubgen", "webdataset"])
    DatasetInfosDict({"default": DatasetInfo(features=features)}).to_dataset_card_data(metadata)
    metadata["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": "train-*.tar"}]}]
    return f"---\n{metadata.to_yaml()}\n---\n\n# Labelled images\n\nWritten by `ubgen export` as WebDataset.\n"

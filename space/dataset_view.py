"""Counting a dataset's classes without downloading it: of each file, only the footer and the column of labels."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from parquet_files import ParquetFiles, open_parquet

MAX_COUNTED_FILES = 64
MAX_COUNTED_ROWS = 2_000_000
MAX_CLASSES = 5_000
LABEL_COLUMNS = ("label", "labels", "class_name", "class", "fine_label")


@dataclass(frozen=True)
class DatasetView:
    """What is known of a dataset after its labels were read.

    Attributes:
        source: its files.
        num_rows: rows of the files that were counted.
        num_files: files that were counted, the first ones of the dataset.
        class_names: by label.
        counts: ``(C,)`` rows of each class among those counted.
        labels: of each counted file, ``(rows,)`` int32, -1 where a row has none.
        schema: of the first file.
        image_column, label_column: None where there is none.
        missing: what could not be found, for the visitor to read.
    """

    source: ParquetFiles
    num_rows: int
    num_files: int
    class_names: tuple[str, ...]
    counts: np.ndarray
    labels: tuple[np.ndarray, ...]
    schema: pa.Schema
    image_column: str | None
    label_column: str | None
    missing: tuple[str, ...] = ()


def read_view(source: ParquetFiles, report: Callable[[int, int], None] = lambda done, total: None) -> DatasetView:
    """Read footers and labels.

    Args:
        source: the files.
        report: called with how many of how many files are counted.

    Raises:
        ValueError: a file that is no parquet, or that cannot be read.
    """
    names: dict[str, int] = {}
    labels: list[np.ndarray] = []
    schema = label_column = None
    total = min(len(source.files), MAX_COUNTED_FILES)
    for number, file in enumerate(source.files[:total]):
        with open_parquet(source, file) as parquet:
            if schema is None:
                schema = parquet.schema_arrow
                label_column = find_label_column(schema)
                names = {name: label for label, name in enumerate(feature_names(schema, label_column))}
            if label_column is None or label_column not in parquet.schema_arrow.names:
                labels.append(np.full(parquet.metadata.num_rows, -1, dtype=np.int32))
            else:
                labels.append(_labels(parquet.read(columns=[label_column]).column(0), names))
        report(number + 1, total)
        if sum(map(len, labels)) >= MAX_COUNTED_ROWS:
            break
    assert schema is not None
    counts = sum((np.bincount(part[part >= 0], minlength=len(names)) for part in labels), np.zeros(len(names), int))
    image_column = find_image_column(schema)
    missing = []
    if image_column is None:
        missing.append("It has no column of images.")
    if label_column is None:
        missing.append("It has no column of labels, so its rows are shown without classes.")
    if not {"prompt", "seed", "model"} <= set(schema.names):
        missing.append("It has no prompt, seed and model for each row: ubgen did not make it, or not this version.")
    return DatasetView(
        source,
        sum(map(len, labels)),
        len(labels),
        tuple(names),
        counts,
        tuple(labels),
        schema,
        image_column,
        label_column,
        tuple(missing),
    )


def find_image_column(schema: pa.Schema) -> str | None:
    """The first column of ``{"bytes", "path"}``, unless it is one of our annotations."""
    for item in schema:
        is_image = pa.types.is_struct(item.type) and {"bytes", "path"} <= {part.name for part in item.type}
        if is_image and item.name not in ("mask", "confidence", "instances"):
            return item.name
    return None


def find_label_column(schema: pa.Schema) -> str | None:
    """The ``ClassLabel`` column that ``datasets`` noted, else the first of ``LABEL_COLUMNS`` that holds labels."""
    features = noted_features(schema)
    for name in schema.names:
        feature = features.get(name)
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            return name
    for name in LABEL_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
                return name
    return None


def feature_names(schema: pa.Schema, label_column: str | None) -> list[str]:
    """Class names that ``datasets`` noted for the column; empty where there are none."""
    feature = noted_features(schema).get(label_column or "", {})
    names = feature.get("names") if isinstance(feature, dict) else None
    return [str(name) for name in names[:MAX_CLASSES]] if isinstance(names, list) else []


def _labels(column: pa.ChunkedArray, names: dict[str, int]) -> np.ndarray:
    """Labels of a column; ``names`` grows by names that are new, in order of appearance."""
    if pa.types.is_integer(column.type):
        values = np.asarray(column.fill_null(-1).to_numpy(), dtype=np.int64)
        values = np.where((values >= 0) & (values < MAX_CLASSES), values, -1)
        for label in range(len(names), int(values.max(initial=-1)) + 1):
            names.setdefault(str(label), label)
        return values.astype(np.int32)
    coded = column.combine_chunks().dictionary_encode()
    for name in coded.dictionary.to_pylist():
        if len(names) < MAX_CLASSES:
            names.setdefault(str(name), len(names))
    codes = [names.get(str(name), -1) for name in coded.dictionary.to_pylist()]
    indices = np.asarray(coded.indices.fill_null(-1).to_numpy(), dtype=np.int64)
    return np.array([*codes, -1], dtype=np.int32)[indices]


def noted_features(schema: pa.Schema) -> dict[str, Any]:
    """Features by column, as ``datasets`` noted them in the file; empty where it did not."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = noted["info"]["features"]
        return features if isinstance(features, dict) else {}
    except (ValueError, KeyError, TypeError):
        return {}

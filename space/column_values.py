"""Values of single columns, read row group by row group up to a limit; columns of images are never among them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from dataset_view import DatasetView, noted_features
from parquet_files import open_parquet

# its functions are made when it is imported, where no type checker sees them
pc: Any = pyarrow.compute
MAX_READ_ROWS = 500_000
MAX_READ_BYTES = 16 * 2**20
# each row's own, or what the label says already
UNCOUNTED_COLUMNS = ("index", "seed", "class_name", "filename", "source_index")
# mostly the same in all rows
SETTING_COLUMNS = ("guidance_scale", "num_inference_steps")
MISSING = "missing"


@dataclass(frozen=True)
class Column:
    """A column that can be counted.

    Attributes:
        name: for the visitor; parts of nested ones are joined by dots.
        path: the names that lead to it in the file; each may hold dots of its own.
        kind: ``number`` or ``text``: what a value is; ``length``: the rows' lists are counted by their lengths.
        names: of a number's values, where they are labels.
    """

    name: str
    path: tuple[str, ...]
    kind: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnValues:
    """Values of a column, in the order of the rows; a row of a list has as many as the list.

    Attributes:
        column: what they are of.
        values: ``(N,)`` float64 for numbers, NaN where missing; else indices into ``texts``.
        texts: the different texts.
        labels: ``(N,)`` int32, the class of each value's row, -1 where it has none.
        num_rows: rows that were read, the first ones of the dataset.
    """

    column: Column
    values: np.ndarray
    texts: tuple[str, ...]
    labels: np.ndarray
    num_rows: int


def find_columns(view: DatasetView) -> dict[str, Column]:
    """The columns that can be counted by name: scores first, then numbers and truth values, then texts.

    The settings of the generation are behind the other numbers.
    """
    features, found = noted_features(view.schema), []
    for item in view.schema:
        if item.name != view.label_column and item.name not in UNCOUNTED_COLUMNS:
            found += _columns((item.name,), item.type, features.get(item.name))
    ranks = {"float": 0, "number": 1, "length": 2, "text": 4}
    found.sort(key=lambda pair: 3 if pair[1].name in SETTING_COLUMNS else ranks[pair[0]])
    named: dict[str, Column] = {}
    for _, column in found:
        # a part of a column may be called like another column whose name holds a dot
        name = column.name
        while name in named:
            name += "_"
        named[name] = column
    return named


def _columns(path: tuple[str, ...], kind: pa.DataType, feature: Any) -> Iterator[tuple[str, Column]]:
    """(rank, column) of all that lies under ``path``, but for images and other bytes."""
    name = ".".join(path)
    if pa.types.is_struct(kind):
        if "bytes" in {part.name for part in kind}:
            return
        parts = [(part.name, part.type) for part in kind]
        lists = [name for name, part in parts if _is_list(part)]
        if lists:
            yield "length", Column(f"number of {name}", (*path, lists[0]), "length")
        for part_name, part in parts:
            inner = feature.get(part_name) if isinstance(feature, dict) else None
            yield from (
                found for found in _columns((*path, part_name), part, inner) if not (lists and found[0] == "length")
            )
    elif _is_list(kind):
        if not pa.types.is_struct(kind.value_type):
            yield "length", Column(f"number of {name}", path, "length")
        if not pa.types.is_nested(kind.value_type):
            inner = feature.get("feature") if isinstance(feature, dict) else None
            yield from _columns(path, kind.value_type, inner)
    elif pa.types.is_floating(kind):
        yield "float", Column(name, path, "number")
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        names = feature.get("names") if isinstance(feature, dict) else None
        if pa.types.is_boolean(kind):
            names = ["false", "true"]
        shown = tuple(str(name) for name in names) if isinstance(names, list) else ()
        yield "number", Column(name, path, "number", shown)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield "text", Column(name, path, "text")


def read_column(view: DatasetView, column: Column) -> ColumnValues:
    """Read the column of the files that were counted, until a limit is reached; whole row groups only.

    Raises:
        ValueError: a file that cannot be read, or a row group whose part of the column is too large.
    """
    texts: dict[str, int] = {}
    values, labels, num_rows, num_bytes = [], [], 0, 0
    for number, file in enumerate(view.source.files[: view.num_files]):
        with open_parquet(view.source, file) as parquet:
            if not _has(parquet.schema_arrow, column.path):
                raise ValueError(f"Dataset: its files differ; not all have the column {column.name}.")
            first = 0
            for group in range(parquet.metadata.num_row_groups):
                metadata = parquet.metadata.row_group(group)
                size = _num_bytes(metadata, column.path)
                if num_rows and (num_rows + metadata.num_rows > MAX_READ_ROWS or num_bytes + size > MAX_READ_BYTES):
                    return _joined(column, values, texts, labels, num_rows)
                if size > MAX_READ_BYTES:
                    raise ValueError(
                        f"Dataset: a row group holds {size >> 20} MiB of that column; at most {MAX_READ_BYTES >> 20}"
                        " are read here."
                    )
                # the reader takes a name with dots for a path as well, and may give more than one column
                table = parquet.read_row_group(group, columns=[".".join(column.path)])
                array = table.column(column.path[0]).combine_chunks()
                part, row = _values(_inner(array, column.path[1:]), column, texts)
                values.append(part)
                labels.append(view.labels[number][first : first + metadata.num_rows][row])
                first += metadata.num_rows
                num_rows, num_bytes = num_rows + metadata.num_rows, num_bytes + size
    return _joined(column, values, texts, labels, num_rows)


def _joined(column: Column, values: list, texts: dict[str, int], labels: list, num_rows: int) -> ColumnValues:
    joined = np.concatenate(values) if values else np.zeros(0)
    rows = np.concatenate(labels) if labels else np.zeros(0, np.int32)
    return ColumnValues(column, joined, tuple(texts), rows, num_rows)


def _has(schema: pa.Schema, path: Sequence[str]) -> bool:
    kind: Any = schema
    for name in path:
        # a list in a file of another shape has no parts
        if not isinstance(kind, (pa.Schema, pa.StructType)) or name not in kind.names:
            return False
        kind = kind.field(name).type
    return True


def _num_bytes(metadata: Any, path: Sequence[str]) -> int:
    name = ".".join(path)
    columns = [metadata.column(number) for number in range(metadata.num_columns)]
    return sum(
        column.total_uncompressed_size for column in columns if f"{column.path_in_schema}.".startswith(f"{name}.")
    )


def _inner(array: pa.Array, names: Sequence[str]) -> pa.Array:
    for name in names:
        # as a list: a text is read as a path, and its dots as steps of it
        array = pc.struct_field(array, [array.type.get_field_index(name)])
    return array


def _values(array: pa.Array, column: Column, texts: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Values of one row group, and the row in it that each is of; ``texts`` grows by those that are new."""
    rows = np.arange(len(array))
    if _is_list(array.type):
        lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False))
        if column.kind == "length":
            return lengths.astype(np.float64), rows
        rows, array = np.repeat(rows, lengths), pc.list_flatten(array)
    if column.kind == "text":
        coded = array.dictionary_encode()
        codes = [texts.setdefault(str(text), len(texts)) for text in coded.dictionary.to_pylist()]
        indices = np.asarray(coded.indices.fill_null(len(codes)).to_numpy(zero_copy_only=False), dtype=np.int64)
        if coded.indices.null_count:
            codes.append(texts.setdefault(MISSING, len(texts)))
        return np.array([*codes, 0], dtype=np.float64)[indices], rows
    # null becomes NaN
    return np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64), rows


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)

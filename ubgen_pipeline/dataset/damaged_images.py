"""Damaged images of a dataset: named by row, column and file where one stops a run, or left out and counted.

``datasets`` decodes an image when its row is read, and lets the decoder's error through, which says neither.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..commands.console import say
from ..files.image_codecs import DECODER_ERRORS, DamagedImageError, rgb_image

_ROWS_AT_ONCE = 256


def read_row(rows: Any, index: int, source: str) -> dict[str, Any]:
    """A row with its images decoded.

    Args:
        rows: a ``datasets.Dataset``.
        index: of the row.
        source: name of the dataset, for errors.

    Raises:
        DamagedImageError: an image of the row cannot be decoded, or its file is gone.
    """
    try:
        return rows[index]
    except DECODER_ERRORS as error:
        for name in _image_columns(rows):
            value = _undecoded(rows, [name])[index][name]
            if (reason := _damage(rows.features[name], value, is_rgb=False)) is not None:
                raise DamagedImageError(_where(index, source, name, value), reason) from error
        raise


def read_rows(rows: Any, source: str) -> Iterator[Any]:
    """The rows of a dataset, each read by :func:`read_row`; what is no dataset is passed through.

    Raises:
        DamagedImageError: see there.
    """
    from datasets import Dataset

    if not isinstance(rows, Dataset):
        yield from rows
        return
    for index in range(len(rows)):
        yield read_row(rows, index, source)


class StreamedImages:
    """The rows of a stream, with damaged images named or left out.

    Args:
        rows: a ``datasets.IterableDataset`` of known features.
        source: its name.
        skip_damaged: leave rows with damaged images out, and say so, instead of raising.
    """

    def __init__(self, rows: Any, source: str, *, skip_damaged: bool):
        self._features = {name: rows.features[name] for name in _image_columns(rows)}
        self._tokens = getattr(rows, "_token_per_repo_id", None)
        self._source, self._skip_damaged, self._left_out = source, skip_damaged, set[str]()
        self.rows = rows.decode(False)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """
        Raises:
            DamagedImageError: an image cannot be decoded, unless such rows are left out.
        """
        for index, row in enumerate(self.rows):
            decoded = dict(row)
            try:
                for name, feature in self._features.items():
                    if row[name] is not None:
                        decoded[name] = _decode(feature, row[name], self._tokens)
            except DECODER_ERRORS as error:
                _raise_of_the_disk(error)
                where = _where(index, f"the stream {self._source}", name, row[name])
                if not self._skip_damaged:
                    raise DamagedImageError(where, str(error)) from error
                if where not in self._left_out:
                    self._left_out.add(where)
                    say(f"{where} is damaged and left out; {len(self._left_out)} so far")
                continue
            yield decoded


def without_damaged(rows: Any, source: str, columns: Sequence[str] = ("image",)) -> Any:
    """The rows whose images can all be decoded, after reading every one; says how many are left out.

    Args:
        rows: a ``datasets.Dataset``.
        source: its name.
        columns: that are decoded; others are not read.

    Raises:
        ValueError: no row is left.
    """
    columns = [name for name in _image_columns(rows) if name in columns]
    bare = _undecoded(rows, columns)

    def is_whole(row: dict[str, Any]) -> bool:
        return all(_damage(rows.features[name], row[name], is_rgb=name == "image") is None for name in columns)

    whole: list[bool] = []
    # Pillow decodes outside of Python's lock
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(bare), _ROWS_AT_ONCE):
            part = bare[start : start + _ROWS_AT_ONCE]
            whole += threads.map(is_whole, [dict(zip(part, values)) for values in zip(*part.values())])
    kept = np.flatnonzero(whole)
    if not len(kept):
        raise ValueError(f"dataset {source} has no image that can be read.")
    if len(kept) == len(rows):
        return rows
    damaged = np.flatnonzero(~np.array(whole))
    shown = ", ".join(map(str, damaged[:10])) + (" …" if len(damaged) > 10 else "")
    say(f"{source}: {len(damaged)} of {len(rows)} rows have damaged images and are left out: {shown}")
    return rows.select(kept)


def _image_columns(rows: Any) -> list[str]:
    from datasets import Image

    return [name for name, feature in rows.features.items() if isinstance(feature, Image) and feature.decode]


def _undecoded(rows: Any, columns: Sequence[str]) -> Any:
    from datasets import Image

    bare = rows.select_columns(list(columns))
    for name in columns:
        bare = bare.cast_column(name, Image(mode=rows.features[name].mode, decode=False))
    return bare


def _decode(feature: Any, value: Any, tokens: Any = None) -> Any:
    if isinstance(value, dict) and value["bytes"] is None and value["path"] and Path(value["path"]).is_file():
        # `datasets` leaves a file open where its content is damaged
        value = {**value, "bytes": Path(value["path"]).read_bytes()}
    return feature.decode_example(value, token_per_repo_id=tokens)


def _damage(feature: Any, value: Any, *, is_rgb: bool) -> str | None:
    """Why an undecoded value is no image; None where it is one."""
    if value is None:
        return "there is none"
    try:
        image = _decode(feature, value)
        if is_rgb:
            rgb_image(image)
    except DECODER_ERRORS as error:
        _raise_of_the_disk(error)
        return str(error) or type(error).__name__
    return None


def _raise_of_the_disk(error: BaseException) -> None:
    """Raise an error of the operating system again: it is not the image's. A missing file is."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
        raise error


def _where(index: int, source: str, column: str, value: Any) -> str:
    path = value.get("path") if isinstance(value, dict) else None
    return f"row {index} of {source}, column {column!r}" + (f", file {path!r}," if path else "")

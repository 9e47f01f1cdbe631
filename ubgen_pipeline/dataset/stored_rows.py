"""The rows of a finished dataset folder as they are stored: a few at a time by position, or one column whole."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as parquet

from ..files.folder_lock import STATE_FOLDER
from .annotated_rows import ExportSource

if TYPE_CHECKING:
    from datasets import Features

_ROWS_AT_ONCE = 16


class StoredRows:
    """The rows of a dataset that ``ubgen generate``, or another command of ubgen's, has written.

    Args:
        folder: of the dataset.

    Raises:
        ValueError: no dataset of ubgen's there, or one that is not finished.
    """

    def __init__(self, folder: str | Path):
        source = ExportSource(folder)
        self.folder, self.files = source.folder, source.files
        self.features: Features = source.features
        self.label_names = source.class_names
        self._starts = np.cumsum([0, *(parquet.read_metadata(file).num_rows for file in self.files)])
        self.manifest = self._manifest()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def rows_per_file(self) -> int:
        """Rows of the first file, which has as many as any other."""
        return int(self._starts[1])

    def rows(
        self, positions: Sequence[int] | np.ndarray, columns: list[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The rows at these positions, which must ascend; images are the bytes of their files.

        Args:
            positions: from 0.
            columns: those to read; None reads all.
        """
        positions = np.asarray(positions, dtype=np.int64)
        for file, start, stop in zip(self.files, self._starts, self._starts[1:]):
            wanted = positions[(positions >= start) & (positions < stop)] - start
            if not len(wanted):
                continue
            with parquet.ParquetFile(file) as stream:
                offset = 0
                for group in range(stream.num_row_groups):
                    after = offset + stream.metadata.row_group(group).num_rows
                    if ((wanted >= offset) & (wanted < after)).any():
                        yield from _of_group(stream, group, wanted - offset, columns)
                    offset = after

    def column(self, name: str) -> list[Any]:
        """The values of a column of numbers or texts, None where there is none."""
        return [value for file in self.files for value in parquet.read_table(file, columns=[name])[name].to_pylist()]

    def numbers(self, name: str) -> np.ndarray:
        """The values ``(N,)`` float64 of a column of numbers or truth values, NaN where there is none."""
        parts = [parquet.read_table(file, columns=[name])[name].cast("float64") for file in self.files]
        return np.concatenate([part.to_numpy() for part in parts])

    def indices(self) -> np.ndarray:
        """The index ``(N,)`` int64 of each row; its position where rows have none."""
        if "index" not in self.features:
            return np.arange(len(self))
        return self.numbers("index").astype(np.int64)

    def class_names(self) -> list[str]:
        """What the classes are called in prompts, in label order: without the ids that tell labels apart."""
        entries = self.manifest.get("class_names", ())
        if len(entries) == len(self.label_names):
            return [entry[0] if isinstance(entry, list) else str(entry) for entry in entries]
        return self.label_names

    def generator(self) -> str | None:
        """Name of the model that drew the rows, where they say so."""
        if "model" not in self.features:
            return None
        return next(parquet.ParquetFile(self.files[0]).iter_batches(1, columns=["model"]))["model"][0].as_py()

    def fingerprint(self) -> str:
        """SHA-256 of the files' names, sizes and what parquet says at their ends of each column's values."""
        digest = hashlib.sha256()
        for file in self.files:
            size = file.stat().st_size
            with open(file, "rb") as stream:
                # the length of the footer and the format's mark are the last eight bytes
                stream.seek(size - 8)
                stream.seek(size - 8 - int.from_bytes(stream.read(4), "little"))
                digest.update(f"{file.name}\0{size}\0".encode() + stream.read())
        return digest.hexdigest()

    def _manifest(self) -> dict[str, Any]:
        try:
            text = (self.folder / STATE_FOLDER / "manifest.json").read_text(encoding="utf-8")
            settings = json.loads(text)["settings"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return settings if isinstance(settings, dict) else {}


def check_elsewhere(output_dir: str, folder: str | Path) -> None:
    """Raise ``ValueError`` where a new dataset would lie in the one that it is made from, or the other way round."""
    target, source = Path(output_dir).expanduser().resolve(), Path(folder).expanduser().resolve()
    if target == source or target.is_relative_to(source) or source.is_relative_to(target):
        raise ValueError(
            f"output_dir is {output_dir!r}, which is the dataset itself, in it or around it; give another folder."
        )


def _of_group(
    stream: parquet.ParquetFile, group: int, wanted: np.ndarray, columns: list[str] | None
) -> Iterator[dict[str, Any]]:
    """Rows of one row group, by their positions in it; those that lie elsewhere are passed over."""
    offset = 0
    for batch in stream.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=columns):
        after = offset + batch.num_rows
        here = wanted[(wanted >= offset) & (wanted < after)] - offset
        if len(here):
            yield from batch.take(here.tolist()).to_pylist()
        offset = after

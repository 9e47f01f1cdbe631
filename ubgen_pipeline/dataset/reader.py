"""The one reader of datasets: it opens a folder, an address or an id of the Hub, and says what is wrong with it.

    open_rows     any dataset, through ``datasets``: rows whose images are decoded when they are read
    StoredRows    a finished folder of ubgen's, through pyarrow: rows as they are stored, images undecoded

``class_folders.py`` reads folders of images. What needs rows in another form is a view of these:
``labelled_images.py`` (images and labels for training and measuring), ``annotated_rows.py`` (rows with objects for
exporting), ``samples/source_dataset.py`` (images to start from). No torch.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as parquet

from ..commands.console import say
from ..files.folder_lock import STATE_FOLDER
from ..files.places import Place, as_place, is_address, opened
from .class_folders import (
    SPLITS,
    check_class_folders,
    is_class_folders,
    is_split_of_images,
    metadata_files,
    rows_of_class_folders,
    rows_of_images,
)

if TYPE_CHECKING:
    from datasets import Dataset, Features

_ROWS_AT_ONCE = 16
# of a stream of class folders, that workers share
_MOST_PARTS = 64


def open_rows(
    source: str,
    split: str = "train",
    *,
    argument: str = "dataset",
    streaming: bool = False,
    revision: str | None = None,
) -> Any:
    """The rows of a dataset by name, none of which is read yet.

    Args:
        source: a folder that ubgen, ``datasets`` or its ``save_to_disk`` wrote, one with a folder of images per class
            (perhaps below ``split``), the address of a dataset of ubgen's, or an id of the Hub.
        split: of the dataset.
        argument: the setting that named the source, for errors.
        streaming: an ``IterableDataset`` instead of a ``Dataset``: nothing is downloaded ahead.
        revision: of the Hub.

    Raises:
        ValueError: nothing there, an unfinished dataset of ubgen's, no such split, a class without images, or no rows.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk

    if is_address(source):
        return _rows_at(as_place(source, argument), split, argument, streaming=streaming)
    folder = Path(source).expanduser()
    is_saved = any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
    class_folders, are_bare_images = None, False
    if folder.is_dir() and not is_saved:
        places = [place for place in (folder / split, folder) if place.is_dir()]
        class_folders = next(filter(is_class_folders, places), None)
        are_bare_images = class_folders is None and is_split_of_images(folder, split)
        if class_folders is not None:
            check_class_folders(class_folders)
        elif split == "train" and list(folder.glob("data/train-*.parquet")):
            _check_finished(folder, shard_files(folder))
    try:
        if is_saved:
            rows: Any = load_from_disk(str(folder))
            rows = rows[split] if isinstance(rows, DatasetDict) else rows
            rows = rows.to_iterable_dataset() if streaming else rows
        elif class_folders is not None or are_bare_images:
            if class_folders is not None:
                rows = rows_of_class_folders(class_folders, metadata_files(class_folders, folder))
            else:
                rows = rows_of_images(folder / split)
            rows = rows.to_iterable_dataset(num_shards=min(len(rows), _MOST_PARTS)) if streaming else rows
        else:
            place = str(folder) if folder.is_dir() else source
            rows = load_dataset(place, split=split, streaming=streaming, revision=revision)
    # datasets raises many kinds: for an id that is unknown, a folder without data, a split that is not there
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{argument} is {source!r}, which could not be read with split {split!r}; give a folder that `ubgen"
            f" generate` wrote, a folder with one folder of images per class, or a Hub id. {first_line}"
        ) from error
    if split == "train" and (others := _other_splits(folder)):
        say(f"{source}: its split 'train' is read; it holds {', '.join(others)}, too")
    return rows


def _other_splits(folder: Path) -> list[str]:
    """The splits beside ``train`` of a dataset that lies here: folders, parquet files, or what ``datasets`` saved."""
    if not folder.is_dir():
        return []
    files = [*folder.glob("data/*-*.parquet"), *folder.glob("*-*.parquet")]
    found = {item.name for item in folder.iterdir() if item.is_dir()} | {file.name.partition("-")[0] for file in files}
    if "train" not in found:
        return []
    saved = (folder / "dataset_dict.json").is_file()
    return sorted(name for name in found if name != "train" and (saved or name in SPLITS))


def _rows_at(place: Place, split: str, argument: str, *, streaming: bool) -> Any:
    """The rows of a dataset of ubgen's at an address, as ``datasets`` reads parquet files there."""
    from datasets import IterableDataset, config, load_dataset
    from fsspec import open_local

    try:
        files = shard_files(place, split)
        if split == "train":
            _check_finished(place, files)
    except (OSError, ValueError) as error:
        raise ValueError(f"{argument} is {str(place)!r}, which could not be read; {error}") from error
    if streaming:
        features, given = stored_features(files[0]), {"files": files}
        return IterableDataset.from_generator(_stored_rows, features=features, gen_kwargs=given)
    # Copies are made here, and made anew where a file has changed: `datasets` itself reaches no store while the Hub is
    # switched off, as it is on clusters without a way out.
    cache = {"cache_storage": str(Path(config.HF_DATASETS_CACHE) / "ubgen"), "check_files": True}
    copies = open_local([f"filecache::{file}" for file in files], filecache=cache)
    return load_dataset("parquet", data_files={split: copies}, split=split)


def _stored_rows(files: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The rows of parquet files, a few in memory at a time; images are the bytes of their files."""
    for file in files:
        with parquet.ParquetFile(opened(file)) as stream:
            for batch in stream.iter_batches(_ROWS_AT_ONCE):
                yield from batch.to_pylist()


def embedded_image(value: "dict[str, Any] | None") -> "dict[str, Any] | None":
    """An undecoded image as a row may leave this machine with it: its bytes, and no path.

    Args:
        value: ``bytes`` and ``path``, of which rows of image folders have the path only; None where there is no image.

    Raises:
        OSError: the file cannot be read.
    """
    if value is None:
        return None
    data = value["bytes"]
    return {"bytes": Path(value["path"]).read_bytes() if data is None else data, "path": None}


def label_names_of(rows: "Dataset | StoredRows", whose: str) -> list[str]:
    """Names of the classes of the column ``label``, or ``ValueError`` beginning with ``whose``."""
    names = getattr(rows.features.get("label"), "names", None)
    if not names:
        raise ValueError(f"{whose} column 'label' names no classes; make it a ClassLabel.")
    return list(names)


def shard_files(folder: "str | Place", split: str = "train") -> "list[Any]":
    """The parquet files of a split of a folder of ubgen's, ``Path`` or, at an address, ``UPath``, in order of rows.

    Raises:
        ValueError: there is none.
    """
    files = sorted((as_place(folder) / "data").glob(f"{split}-*.parquet"), key=str)
    if not files:
        raise ValueError(
            f"{str(folder)!r} holds no data/{split}-*.parquet; give the folder of a dataset that `ubgen generate` has"
            " written, or that `ubgen annotate` has made of images of your own."
        )
    return files


def _check_finished(folder: Place, files: "Sequence[Place]") -> None:
    """Raise ``ValueError`` unless all shards and the card are there."""
    wanted = files[0].stem.rpartition("-of-")[2]
    unfinished = (folder / STATE_FOLDER).is_dir() and not (folder / "README.md").is_file()
    if unfinished or (wanted.isdecimal() and int(wanted) != len(files)):
        raise ValueError(
            f"{str(folder)!r} is unfinished: {len(files)} of {wanted} parquet files are there; run the command that"
            " makes it again, which resumes."
        )


class StoredRows:
    """The rows of a dataset that ``ubgen generate``, or another command of ubgen's, has written.

    Args:
        folder: of the dataset, or its address.

    Raises:
        ValueError: no dataset of ubgen's there, or one that is not finished.
    """

    def __init__(self, folder: "str | Place"):
        self.folder, self.files = as_place(folder), shard_files(folder)
        _check_finished(self.folder, self.files)
        for name, kind in (("image", "Image"), ("label", "ClassLabel")):
            if type(self.features.get(name)).__name__ != kind:
                raise ValueError(f"{str(folder)!r} has no column {name!r} of kind {kind}; it is no ubgen dataset.")
        self.label_names = label_names_of(self, str(folder))
        self._starts = np.cumsum([0, *(parquet.read_metadata(opened(file)).num_rows for file in self.files)])
        self.manifest = self._manifest()

    @cached_property
    def features(self) -> "Features":
        """The columns, as the first file states them."""
        return stored_features(self.files[0])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def rows_per_file(self) -> int:
        """Rows of the first file, which has as many as any other."""
        return int(self._starts[1])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All rows in order, a few in memory at a time; images are the bytes of their files."""
        yield from _stored_rows(self.files)

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
            with parquet.ParquetFile(opened(file)) as stream:
                offset = 0
                for group in range(stream.num_row_groups):
                    after = offset + stream.metadata.row_group(group).num_rows
                    if ((wanted >= offset) & (wanted < after)).any():
                        yield from _of_group(stream, group, wanted - offset, columns)
                    offset = after

    def column(self, name: str) -> list[Any]:
        """The values of a column of numbers or texts, None where there is none."""
        return stored_column(self.files, name)

    def numbers(self, name: str) -> np.ndarray:
        """The values ``(N,)`` float64 of a column of numbers or truth values, NaN where there is none."""
        parts = [parquet.read_table(opened(file), columns=[name])[name].cast("float64") for file in self.files]
        return np.concatenate([part.to_numpy() for part in parts])

    def indices(self) -> np.ndarray:
        """The index ``(N,)`` int64 of each row; its position where rows have none."""
        if "index" not in self.features:
            return np.arange(len(self))
        numbers = self.numbers("index")
        return np.where(np.isnan(numbers), np.arange(len(self)), numbers).astype(np.int64)

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
        return next(parquet.ParquetFile(opened(self.files[0])).iter_batches(1, columns=["model"]))["model"][0].as_py()

    def fingerprint(self) -> str:
        """SHA-256 of the files' names, sizes and what parquet says at their ends of each column's values."""
        digest = hashlib.sha256()
        for file in self.files:
            size = file.stat().st_size
            with file.open("rb") as stream:
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


def stored_features(file: Place) -> "Features":
    """The columns of a parquet file that ``datasets`` or ubgen wrote."""
    from datasets import Features

    return Features.from_arrow_schema(parquet.read_schema(opened(file)))


def stored_column(files: "Sequence[Place]", name: str) -> list[Any]:
    """The values of a column of numbers or texts in parquet files, None where there is none."""
    return [value for file in files for value in parquet.read_table(opened(file), columns=[name])[name].to_pylist()]


def check_elsewhere(output_dir: str, folder: "str | Place") -> None:
    """Raise ``ValueError`` where a new dataset would lie in the one that it is made from, or the other way round."""
    target, source = (
        # of an address what counts is its text: what its store makes of ".." is not known here
        PurePosixPath(str(place).partition("://")[2]) if is_address(place) else Path(str(place)).expanduser().resolve()
        for place in (output_dir, folder)
    )
    if is_address(output_dir) != is_address(folder):
        return
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

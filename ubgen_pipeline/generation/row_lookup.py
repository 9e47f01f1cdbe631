"""A row of a generated dataset by its index, wherever its dataset is, and the rest of the batch it was drawn in.

This is no view of ``dataset/reader.py``, which opens whole datasets: here a dataset may be unfinished, and of one on
the Hub no more than the shard with the row is fetched.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..files.folder_lock import STATE_FOLDER
from ..files.image_codecs import read_rgb
from ..files.places import Place, as_place, is_address, opened
from ..hub.access import check_repo_id, retried

MANIFEST = f"{STATE_FOLDER}/manifest.json"


@dataclass(frozen=True)
class FoundRow:
    """A row as it is stored, and the rows of its batch in order, itself among them; without a manifest it is alone."""

    columns: dict[str, Any]
    batch: list[dict[str, Any]]
    manifest: dict[str, Any]
    batch_is_whole: bool


def find_row(dataset: str, index: int) -> FoundRow:
    """The row of that index in a dataset's folder, at its address, or on the Hub.

    Raises:
        ValueError: no such dataset or row, or one that lacks the columns of ubgen's datasets.
    """
    import pyarrow.parquet

    source = _Files(dataset)
    manifest = source.manifest()
    for file in source.shards_with(index, manifest):
        table = pyarrow.parquet.read_table(opened(file))
        if missing := {"image", "index", "prompt", "seed", "model"} - set(table.column_names):
            raise ValueError(f"dataset is {dataset!r}, whose rows lack {sorted(missing)[0]!r}: ubgen did not make it.")
        indices = table["index"].to_pylist()
        if index not in indices:
            continue
        batch_indices = _batch_of(index, manifest, source.batch_size(index)) if manifest else [index]
        whole = set(batch_indices) <= set(indices)
        wanted = batch_indices if whole else [index]
        batch = table.take([indices.index(i) for i in wanted]).to_pylist()
        return FoundRow(batch[wanted.index(index)], batch, manifest, whole and bool(manifest))
    raise ValueError(f"index is {index}, which no row of {dataset!r} has.")


def stored_image(row: FoundRow) -> Any:
    """The row's image as the dataset holds it, a ``PIL.Image``."""
    return read_rgb(row.columns["image"]["bytes"], f"row {row.columns['index']}, column 'image',")


def _batch_of(index: int, manifest: dict[str, Any], size: int) -> list[int]:
    """Indices of the rows that were drawn together with that row: batches start with the shard."""
    # a view of ubgen filter keeps the indices of the dataset that it was made from
    num_samples = manifest["filters"][0]["num_samples"] if "filters" in manifest else manifest["num_samples"]
    per_shard = manifest["samples_per_shard"]
    shard_start = index // per_shard * per_shard
    start = shard_start + (index - shard_start) // size * size
    return list(range(start, min(start + size, shard_start + per_shard, num_samples)))


class _Files:
    """The files of a dataset in a folder or on the Hub."""

    def __init__(self, dataset: str):
        self.dataset, self.folder = dataset, as_place(dataset, "dataset")
        self._is_here = is_address(dataset) or self.folder.is_dir()
        if self._is_here:
            self.names = sorted(f"data/{file.name}" for file in (self.folder / "data").glob("train-*.parquet"))
            if (self.folder / MANIFEST).is_file():
                self.names.append(MANIFEST)
        else:
            if self.folder.exists() or dataset.count("/") != 1:
                raise ValueError(f"dataset is {dataset!r}, which is neither a folder nor an id on the Hub.")
            check_repo_id("dataset", dataset)
            from huggingface_hub import HfApi

            self.names = retried(
                lambda: HfApi().list_repo_files(dataset, repo_type="dataset"), "reading the dataset", dataset
            )
        if not self._shards():
            raise ValueError(f"dataset is {dataset!r}, which holds no data/train-*.parquet; give a generated one.")

    def manifest(self) -> dict[str, Any]:
        """The settings of the run, or nothing where the dataset has no manifest."""
        settings = self._recorded.get("settings", {})
        # a command that draws nothing, such as annotate, may have written a manifest without batch_size: it does not
        # say how rows were drawn
        return settings if "batch_size" in settings else {}

    def shards_with(self, index: int, manifest: dict[str, Any]) -> "list[Place]":
        """Files that may hold the row; of a dataset with a manifest only the one that does is fetched."""
        shards = self._shards()
        if manifest and "filters" not in manifest:
            shards = [name for name in shards if name.startswith(f"data/train-{self._number(index):05d}-of-")]
        return [self._local(name) for name in shards]

    def batch_size(self, index: int) -> int:
        """The batch size that the row's shard was drawn with, which a full memory may have made smaller."""
        number = self._number(index)
        mark = self.folder / STATE_FOLDER / f"shard-{number:05d}.json"
        # a view of ubgen filter has other rows in its shards than the dataset that was drawn
        is_view = "filters" in self._recorded["settings"]
        if (
            not is_view
            and mark.is_file()
            and "batch_size" in (statistics := json.loads(mark.read_text(encoding="utf-8")))
        ):
            return statistics["batch_size"]
        return self._recorded.get("batch_sizes", {}).get(str(number), self._recorded["settings"]["batch_size"])

    @cached_property
    def _recorded(self) -> dict[str, Any]:
        if MANIFEST not in self.names:
            return {}
        return json.loads(self._local(MANIFEST).read_text(encoding="utf-8"))

    def _number(self, index: int) -> int:
        return index // self._recorded["settings"]["samples_per_shard"]

    def _shards(self) -> list[str]:
        return sorted(name for name in self.names if name.startswith("data/train-") and name.endswith(".parquet"))

    def _local(self, name: str) -> "Place":
        if self._is_here:
            return self.folder / name
        from huggingface_hub import HfApi

        return Path(
            retried(
                lambda: HfApi().hf_hub_download(self.dataset, name, repo_type="dataset"),
                "reading the dataset",
                self.dataset,
            )
        )

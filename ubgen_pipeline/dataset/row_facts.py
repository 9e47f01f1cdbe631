"""What the card says of rows, from columns of numbers and texts: each file of the dataset is read once for all of it.

No image but the first of each file is opened, and of that the header alone.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow.parquet as parquet
from PIL import Image

from ..commands.console import Progress
from ..files.image_codecs import DECODER_ERRORS
from ..files.places import Place, opened
from .columns import CLIP_COLUMNS, NOT_FINITE_COLUMN, OBJECTS_COLUMN, SAFETY_COLUMN
from .shards import DatasetShards, Shard

MARK_COLUMNS = (SAFETY_COLUMN, NOT_FINITE_COLUMN)
FACT_COLUMNS = ("label", OBJECTS_COLUMN, *CLIP_COLUMNS, "attributes", *MARK_COLUMNS)
# requests to a store wait for each other's answers, not for this machine
_READS_AT_ONCE = 16
# fewer files of this machine are read before somebody wonders what takes so long
_MOST_WITHOUT_PROGRESS = 64


class RowFacts(NamedTuple):
    """Of the rows of one parquet file.

    Attributes:
        columns: values by the column's name, None where a row has none; columns that the file lacks are not there.
        image_size: width and height of the first image in pixels, if it could be read.
    """

    columns: dict[str, list[Any]]
    image_size: tuple[int, int] | None

    @property
    def marks(self) -> Counter[str]:
        """Rows that a safety checker flagged, and those of each mark of images that were not finite."""
        flags = self.columns.get(SAFETY_COLUMN)
        found = Counter[str]() if flags is None else Counter({SAFETY_COLUMN: flags.count(True)})
        found.update(mark for mark in self.columns.get(NOT_FINITE_COLUMN, ()) if mark is not None)
        return found


def read_facts(file: Place) -> RowFacts:
    """All that the card says of the rows of a parquet file."""
    with parquet.ParquetFile(opened(file)) as stream:
        there = stream.schema_arrow.names
        columns = _values(stream, [name for name in FACT_COLUMNS if name in there])
        size = _first_size(stream) if "image" in there else None
    return RowFacts(columns, size)


def marked_rows(file: Place) -> Counter[str]:
    """The marks of a parquet file's rows alone; see :attr:`RowFacts.marks`."""
    with parquet.ParquetFile(opened(file)) as stream:
        wanted = [name for name in MARK_COLUMNS if name in stream.schema_arrow.names]
        return RowFacts(_values(stream, wanted) if wanted else {}, None).marks


class ShardFacts:
    """The facts of a dataset's shards, each of which is read when it is asked for and kept.

    Args:
        shards: the dataset; a store that does not answer is waited for.
    """

    def __init__(self, shards: DatasetShards):
        self._shards = shards
        self._kept: dict[int, RowFacts] = {}

    def of(self, shards: Sequence[Shard]) -> list[RowFacts]:
        """Their facts, in this order. Where reading takes long, its progress is shown."""
        missing = [shard for shard in shards if shard.number not in self._kept]
        with ThreadPoolExecutor(_READS_AT_ONCE) as readers:
            read = zip(missing, readers.map(self._read, missing))
            for shard, facts in self._with_progress(read, len(missing)):
                self._kept[shard.number] = facts
        return [self._kept[shard.number] for shard in shards]

    def _read(self, shard: Shard) -> RowFacts:
        return self._shards.reading(lambda: read_facts(self._shards.file(shard)))

    def _with_progress(self, read: Iterator[tuple[Shard, RowFacts]], count: int) -> Iterator[tuple[Shard, RowFacts]]:
        if not self._shards.store.is_address and count <= _MOST_WITHOUT_PROGRESS:
            return read
        return Progress(count, "shards read for the card").counted(read)


def _values(stream: parquet.ParquetFile, names: Sequence[str]) -> dict[str, list[Any]]:
    table = stream.read(columns=list(names))
    return {name: table[name].to_pylist() for name in names}


def _first_size(stream: parquet.ParquetFile) -> tuple[int, int] | None:
    batch = next(stream.iter_batches(1, columns=["image"]), None)
    value = batch["image"][0].as_py() if batch is not None else None
    try:
        with Image.open(io.BytesIO((value or {}).get("bytes") or b"")) as image:
            return image.size
    except DECODER_ERRORS:
        return None

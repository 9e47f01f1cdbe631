"""Rows of labelled images that a trainer reads, each prepared with its index and the epoch, whole or from a stream.

What is random in the preparing depends on nothing else, so neither batch size nor workers change it, and a resumed run
sees what an uninterrupted one does.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from ubgen_pipeline.dataset.columns import known_label
from ubgen_pipeline.dataset.damaged_images import StreamedImages, read_row
from ubgen_pipeline.dataset.labelled_images import LabelledImages

# a row's columns, its index and the epoch to what the trainer gets
PrepareRow = Callable[[dict[str, Any], int, int], dict[str, Any]]


class EpochRows(Dataset):
    """The rows in their order; a trainer sets the epoch."""

    def __init__(self, images: LabelledImages, prepare: PrepareRow):
        self.images = images
        self.prepare = prepare
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.prepare(read_row(self.images.rows, index, self.images.source), index, self.epoch)


class EpochStream(IterableDataset):
    """The rows of a stream, shuffled within a buffer; the order depends on ``seed`` and the epoch alone.

    Raises:
        ValueError: while it is read, a row without a label; it would be trained as the last class.
    """

    def __init__(self, images: LabelledImages, prepare: PrepareRow, *, seed: int, buffer_size: int):
        self.prepare = prepare
        self.epoch = 0
        self.source = images.source
        # undecoded, so that what lies in the buffer is small, and that a damaged image can be left out
        stream = StreamedImages(images.rows, images.source, skip_damaged=images.skip_damaged)
        stream.rows = stream.rows.shuffle(seed=seed, buffer_size=buffer_size)
        self._rows = stream

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self._rows.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index, row in enumerate(self._rows):
            if known_label(row["label"]) is None:
                raise ValueError(
                    f"dataset {self.source}, which is streamed, has rows without a label; leave them out, or take a"
                    " split that has labels."
                )
            yield self.prepare(row, index, self.epoch)

"""Rows by index and epoch, whole or from a stream whose order the seed and the epoch choose."""

from datasets import Dataset

from ubgen_pipeline.dataset.labelled_images import LabelledImages
from ubgen_training.images.epoch_rows import EpochRows, EpochStream

ROWS = Dataset.from_dict({"label": list(range(20))})


def prepare(row, index, epoch):
    return {"label": row["label"], "index": index, "epoch": epoch}


def stream(seed: int) -> EpochStream:
    images = LabelledImages(ROWS.to_iterable_dataset(), ("a",), "memory")
    return EpochStream(images, prepare, seed=seed, buffer_size=5)


def test_a_row_is_prepared_with_its_index_and_the_epoch():
    rows = EpochRows(LabelledImages(ROWS, ("a",), "memory"), prepare)
    assert len(rows) == 20 and rows[3] == {"label": 3, "index": 3, "epoch": 0}
    rows.set_epoch(2)
    assert rows[3] == {"label": 3, "index": 3, "epoch": 2}


def test_a_stream_gives_every_row_once_in_an_order_of_seed_and_epoch():
    rows = stream(seed=1)
    first, again = list(rows), list(rows)
    assert first == again and [row["index"] for row in first] == list(range(20))
    labels = [row["label"] for row in first]
    assert sorted(labels) == list(range(20)) and labels != list(range(20))
    rows.set_epoch(1)
    later = list(rows)
    assert [row["label"] for row in later] != labels and {row["epoch"] for row in later} == {1}
    # a resumed run begins in the middle of its epochs
    resumed = stream(seed=1)
    resumed.set_epoch(1)
    assert list(resumed) == later and [row["label"] for row in stream(seed=2)] != labels

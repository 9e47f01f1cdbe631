"""Rows by index and epoch, whole or from a stream whose order the seed and the epoch choose."""

import pytest
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


@pytest.mark.parametrize("label", [None, -1])
def test_a_row_without_a_label_ends_a_stream(label):
    rows = Dataset.from_dict({"label": [0, 0, label]}).to_iterable_dataset()
    stream = EpochStream(LabelledImages(rows, ("a",), "photos"), prepare, seed=0, buffer_size=5)
    with pytest.raises(ValueError, match="dataset photos, which is streamed, has rows without a label"):
        list(stream)

"""The reader: what it opens, as the dataset has it, and what it says of what it cannot open."""

import shutil

import numpy as np
import pyarrow.parquet as parquet
import pytest
from datasets import Dataset, DatasetDict, load_dataset

from support import DATA
from support.image_folders import save_class_folders, save_image
from support.scene_dataset import NUM_ROWS, write_scene_dataset
from ubgen_pipeline.dataset.reader import (
    StoredRows,
    check_elsewhere,
    label_names_of,
    open_rows,
    shard_files,
    stored_column,
)

NAMES = ("apple", "pear")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three shards of 4, 4 and 3 rows."""
    place = tmp_path_factory.mktemp("reader") / "d"
    write_scene_dataset(place)
    return place


def test_all_rows_in_order_as_they_are_stored(folder):
    rows = StoredRows(folder)
    written = [row for file in shard_files(folder) for row in parquet.read_table(file).to_pylist()]
    assert list(rows) == written and len(rows) == NUM_ROWS and rows.rows_per_file == 4
    assert all(isinstance(row["image"]["bytes"], bytes) for row in written)


@pytest.mark.parametrize("positions", [[0], [3, 4], [1, 5, 10], range(NUM_ROWS), []])
def test_rows_by_position_and_column(folder, positions):
    written = list(StoredRows(folder))
    assert list(StoredRows(folder).rows(list(positions))) == [written[i] for i in positions]
    only = list(StoredRows(folder).rows(list(positions), columns=["seed"]))
    assert only == [{"seed": written[i]["seed"]} for i in positions]


def test_columns_whole(folder):
    rows = StoredRows(folder)
    assert rows.column("prompt") == stored_column(rows.files, "prompt") == [row["prompt"] for row in rows]
    assert rows.numbers("label").tolist() == [row["label"] for row in rows]
    assert rows.indices().tolist() == list(range(NUM_ROWS)) and rows.indices().dtype == np.int64
    assert rows.class_names() == rows.label_names == list(rows.features["label"].names)
    assert rows.generator() is None and StoredRows(DATA / "first_version" / "dataset").generator() == "mini"


def test_a_fingerprint_tells_datasets_apart(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert StoredRows(copy).fingerprint() == StoredRows(folder).fingerprint()
    file = shard_files(copy)[0]
    table = parquet.read_table(file)
    parquet.write_table(table.take([1, 0, 2, 3]), file)
    assert StoredRows(copy).fingerprint() != StoredRows(folder).fingerprint()


def test_what_is_no_finished_dataset_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"nothing' holds no data/train-\*\.parquet; give .* `ubgen annotate`"):
        StoredRows(tmp_path / "nothing")
    for lost in ("data/train-00001-of-00003.parquet", "README.md"):
        copy = shutil.copytree(folder, tmp_path / lost.replace("/", "_"))
        (copy / lost).unlink()
        for opened in (StoredRows, lambda place: open_rows(str(place))):
            with pytest.raises(ValueError, match=r"is unfinished: \d of 00003 parquet files are there"):
                opened(copy)
    copy = shutil.copytree(folder, tmp_path / "without")
    for file in shard_files(copy):
        parquet.write_table(parquet.read_table(file).drop_columns(["label"]), file)
    with pytest.raises(ValueError, match="no column 'label' of kind ClassLabel"):
        StoredRows(copy)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_same_rows_whatever_they_lie_in(folder, tmp_path, streaming):
    expected = load_dataset(str(folder), split="train")
    expected.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": expected}).save_to_disk(tmp_path / "saved_splits")
    for place in (folder, tmp_path / "saved", tmp_path / "saved_splits"):
        rows = open_rows(str(place), streaming=streaming)
        assert isinstance(rows, Dataset) != streaming
        found = list(rows)
        assert [row["index"] for row in found] == list(range(NUM_ROWS)) and found[0]["image"].size == (128, 64)


@pytest.mark.parametrize("kind", ["class folders", "images", "shards", "saved"])
def test_which_of_several_splits_is_read_is_said(folder, tmp_path, capsys, kind):
    place = tmp_path / "d"
    if kind == "class folders":
        for split in ("test", "train", "val"):
            save_class_folders(place / split, NAMES, 1)
    elif kind == "images":
        # no classes, although each split is a folder of images
        for split in ("test", "train", "val"):
            save_image(place / split / "0.png")
    else:
        rows = load_dataset(str(folder), split="train")
        for split in ("test", "train", "val") if kind == "shards" else ():
            (place / "data").mkdir(parents=True, exist_ok=True)
            rows.to_parquet(place / "data" / f"{split}-00000-of-00001.parquet")
        if kind == "saved":
            DatasetDict(dict.fromkeys(("test", "train", "val"), rows)).save_to_disk(place)
    capsys.readouterr()
    assert ("label" in open_rows(str(place)).features) == (kind != "images")
    assert f"ubgen: {place}: its split 'train' is read; it holds test, val, too\n" in capsys.readouterr().err
    # one that is asked for by name is known
    open_rows(str(place), "test")
    open_rows(str(folder))
    assert "its split" not in capsys.readouterr().err


def test_errors_name_argument_value_and_split(folder, tmp_path):
    with pytest.raises(ValueError, match=r"source is '.*nothing', which could not be read with split 'train'; give a"):
        open_rows(str(tmp_path / "nothing"), argument="source")
    with pytest.raises(ValueError, match="could not be read with split 'test'"):
        open_rows(str(folder), "test")
    empty = Dataset.from_dict({"index": [0]}).select([])
    (tmp_path / "empty").mkdir()
    empty.to_parquet(tmp_path / "empty" / "train.parquet")
    with pytest.raises(ValueError, match=r"could not be read with split 'train'.* no data"):
        open_rows(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="dataset's column 'label' names no classes"):
        label_names_of(Dataset.from_dict({"label": [0]}), "dataset's")


def test_a_new_dataset_lies_elsewhere(tmp_path):
    check_elsewhere(str(tmp_path / "new"), tmp_path / "old")
    for place in ("old", "old/in", ""):
        with pytest.raises(ValueError, match="give another folder"):
            check_elsewhere(str(tmp_path / place), tmp_path / "old")

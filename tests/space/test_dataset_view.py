"""Counting a dataset by its labels alone, ours or not ours."""

from functools import partial

import pyarrow.parquet as pq
import pytest
from dataset_rows import find_rows, read_rows
from dataset_view import MAX_COUNTED_FILES, read_view
from parquet_files import ParquetFiles

from support.space_datasets import open_folder, png, write


def test_only_labels_and_the_groups_of_a_page_are_read(ours, monkeypatch):
    read = []
    columns_of, group_of = pq.ParquetFile.read, pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read", lambda self, columns=None: read.append(columns) or columns_of(self, columns=columns)
    )
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, group: read.append(group) or group_of(self, group)
    )
    view = open_folder(ours)
    assert read == [["label"], ["label"]]
    read_rows(view, 2, 1, 1)
    assert read[2:] == [1]


def test_a_dataset_that_is_not_ours_is_shown_as_far_as_it_goes(tmp_path):
    write(tmp_path / "a.parquet", {"picture": [png(1), png(2)], "class_name": ["x", None]})
    view = open_folder(tmp_path)
    assert view.class_names == ("x",) and view.counts.tolist() == [1] and view.num_rows == 2
    assert any("ubgen did not make it" in text for text in view.missing)
    assert len(read_rows(view, None, 0, 9)) == 2
    write(tmp_path / "b" / "c.parquet", {"image": [png(1)]})
    view = open_folder(tmp_path / "b")
    assert view.class_names == () and any("no column of labels" in text for text in view.missing)
    assert len(read_rows(view, None, 0, 9)) == 1
    write(tmp_path / "d" / "e.parquet", {"label": [0, 2, -1]})
    view = open_folder(tmp_path / "d")
    assert view.counts.tolist() == [1, 0, 1] and any("no column of images" in text for text in view.missing)
    with pytest.raises(ValueError, match="no column of images"):
        read_rows(view, None, 0, 9)


def test_counting_stops_after_so_many_files(tmp_path):
    write(tmp_path / "a.parquet", {"label": [0, 1]})
    files = ParquetFiles("many", (str(tmp_path / "a.parquet"),) * 1000, partial(open, mode="rb"))
    seen = []
    view = read_view(files, lambda done, total: seen.append((done, total)))
    assert view.num_files == MAX_COUNTED_FILES and view.counts.tolist() == [64, 64] and seen[-1] == (64, 64)
    assert find_rows(view, 1, 62, 9) == [(62, 1), (63, 1)]

"""A dataset's other columns: which can be counted, and what is read for them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from column_values import find_columns, read_column
from dataset_view import read_view
from histogram import histogram_html
from parquet_files import find_parquet_files

from support.space_datasets import NAMES, open_folder


def test_numbers_texts_and_lists_can_be_counted_and_pictures_cannot(view):
    columns = find_columns(view)
    numbers = ["unsafe", "zero_shot_label", "classes", "objects.category", "objects.area"]
    assert list(columns) == [
        "clip_score",
        *numbers,
        "number of classes",
        "number of objects",
        "prompt",
        "attributes.place",
    ]
    assert columns["zero_shot_label"].names == columns["objects.category"].names == tuple(NAMES)


def test_values_and_the_class_of_each(view):
    columns = find_columns(view)
    rows = np.arange(12)
    scores = read_column(view, columns["clip_score"])
    expected = np.where(rows == 3, np.nan, rows / 10)
    assert np.allclose(scores.values, expected, equal_nan=True) and scores.num_rows == 12
    assert scores.labels.tolist() == (rows % 3).tolist()
    counts = read_column(view, columns["number of objects"])
    assert counts.values.tolist() == (rows % 4).tolist()
    areas = read_column(view, columns["objects.area"])
    assert areas.values.tolist() == np.repeat(rows, rows % 4).tolist()
    assert areas.labels.tolist() == np.repeat(rows % 3, rows % 4).tolist()
    assert read_column(view, columns["unsafe"]).values.tolist() == (rows % 2 == 0).tolist()
    prompts = read_column(view, columns["prompt"])
    shown = [prompts.texts[int(value)] for value in prompts.values]
    assert shown == ["missing" if row == 4 else f"a {NAMES[row % 3]}" for row in rows]


def test_only_the_column_is_read_and_only_up_to_the_limits(view, monkeypatch):
    read = []
    read_group = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, columns: read.append((group, *columns)) or read_group(self, group, columns=columns),
    )
    columns = find_columns(view)
    read_column(view, columns["objects.area"])
    assert read == [(group, "objects.area") for group in (0, 1, 2)] * 2
    monkeypatch.setattr("column_values.MAX_READ_ROWS", 5)
    found = read_column(view, columns["clip_score"])
    assert found.num_rows == 4 == len(found.values)
    assert "of the first 4 rows" in histogram_html(found, None, "", view.num_rows)
    monkeypatch.setattr("column_values.MAX_READ_BYTES", 10)
    with pytest.raises(ValueError, match="row group"):
        read_column(view, columns["clip_score"])


def test_dots_in_a_name_are_part_of_it(tmp_path):
    inner = [{"b": number, "c.d": 10 * number} for number in range(3)]
    table = pa.table(
        {"a.b": [7, 8, 9], "a": inner, "x.y.z": ["u", None, "v"], "l.m": [[1], [], [2, 3]], "image": [None] * 3}
    )
    pq.write_table(table, tmp_path / "d.parquet")
    view = open_folder(tmp_path)
    columns = find_columns(view)
    read = {name: read_column(view, column) for name, column in columns.items()}
    assert list(columns) == ["a.b", "a.b_", "a.c.d", "l.m", "number of l.m", "x.y.z"]
    assert read["a.b"].values.tolist() == [7, 8, 9] and read["a.b_"].values.tolist() == [0, 1, 2]
    assert read["a.c.d"].values.tolist() == [0, 10, 20] and read["l.m"].values.tolist() == [1, 2, 3]
    assert read["x.y.z"].texts == ("u", "v", "missing") and read["number of l.m"].values.tolist() == [1, 0, 2]
    # in another file the same name leads elsewhere
    pq.write_table(pa.table({"a.b": [1], "a": [5]}), tmp_path / "e.parquet")
    view = open_folder(tmp_path)
    assert read_column(view, columns["a.b"]).values.tolist() == [7, 8, 9, 1]
    with pytest.raises(ValueError, match=r"not all have the column a\.c\.d"):
        read_column(view, columns["a.c.d"])


def test_files_that_differ_are_an_error(view, tmp_path):
    pq.write_table(pa.table({"label": [0]}), tmp_path / "train-00002.parquet")
    view = read_view(find_parquet_files(str(tmp_path), (str(tmp_path),)))
    with pytest.raises(ValueError, match="not all have the column clip_score"):
        read_column(view, find_columns(view)["clip_score"])

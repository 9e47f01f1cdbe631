"""Histograms of a dataset's other columns: which can be counted, what is read for them, and their bins."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from column_values import Column, ColumnValues, find_columns, read_column
from dataset_view import read_view
from histogram import MAX_BINS, MAX_VALUES, count_names, count_numbers, histogram_html
from parquet_files import find_parquet_files

NAMES = ["star", "<b>heart</b>", "ring"]
PICTURE = {"bytes": b"x" * 1000, "path": None}
FEATURES = {
    "label": {"_type": "ClassLabel", "names": NAMES},
    "zero_shot_label": {"_type": "ClassLabel", "names": NAMES},
    "objects": {"category": {"_type": "List", "feature": {"_type": "ClassLabel", "names": NAMES}}},
}


@pytest.fixture()
def view(tmp_path):
    """Two files of six rows in row groups of two; row i of class i mod 3."""
    for number in range(2):
        rows = range(6 * number, 6 * number + 6)
        table = pa.table(
            {
                "image": [PICTURE] * 6,
                "label": [row % 3 for row in rows],
                "prompt": [None if row == 4 else f"a {NAMES[row % 3]}" for row in rows],
                "seed": list(rows),
                "unsafe": [row % 2 == 0 for row in rows],
                "zero_shot_label": [row % 2 for row in rows],
                "clip_score": pa.array([None if row == 3 else row / 10 for row in rows], pa.float32()),
                "classes": [[row % 3] for row in rows],
                "heatmaps": [[PICTURE]] * 6,
                "objects": [
                    {"bbox": [[1, 2, 3, 4]] * (row % 4), "category": [row % 3] * (row % 4), "area": [row] * (row % 4)}
                    for row in rows
                ],
                "attributes": [{"place": "sea"}] * 6,
            }
        )
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})
        pq.write_table(table, tmp_path / f"train-{number:05d}-of-00002.parquet", row_group_size=2)
    return read_view(find_parquet_files(str(tmp_path), (str(tmp_path),)))


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


def test_bins_span_all_classes_and_count_every_value():
    rng = np.random.default_rng(0)
    every = rng.normal(size=1000)
    counts = count_numbers(every, np.append(every[:100], [np.nan, np.inf]))
    expected, _ = np.histogram(every[:100], np.linspace(every.min(), every.max(), MAX_BINS + 1))
    assert [count for _, count in counts] == [*expected.tolist(), 2] and counts[-1][0] == "missing"
    assert count_numbers(np.array([1.0, 2, 1]), np.array([1.0, 1])) == [("1", 2), ("2", 0)]
    whole = count_numbers(np.arange(30.0), np.arange(30.0))
    assert whole[0] == ("0 to 2", 3) and whole[-1] == ("27 to 29", 3) and sum(count for _, count in whole) == 30
    assert count_numbers(np.array([np.nan]), np.array([np.nan])) == [("missing", 1)]


def test_the_most_frequent_names_are_shown_and_the_others_counted():
    texts = tuple(f"text {number}" for number in range(50))
    values = np.repeat(np.arange(50.0), np.arange(50, 0, -1))
    found = ColumnValues(Column("prompt", "prompt", "text"), values, texts, np.zeros(len(values), np.int32), 9)
    counts = count_names(found, values)
    assert counts[0] == ("text 0", 50) and len(counts) == MAX_VALUES + 1
    assert counts[-1] == ("30 other values", sum(range(1, 31)))
    labels = ColumnValues(Column("l", "l", "number", ("a", "b")), np.array([1.0, 7, np.nan]), (), np.zeros(3), 3)
    assert count_names(labels, labels.values) == [("b", 1), ("7", 1), ("missing", 1)]


def test_a_class_is_counted_alone_and_hostile_names_stay_texts(view):
    found = read_column(view, find_columns(view)["zero_shot_label"])
    page = histogram_html(found, 1, NAMES[1], view.num_rows)
    assert "zero_shot_label of &lt;b&gt;heart&lt;/b&gt;: 4 values" in page and "<b>" not in page
    assert "no values" in histogram_html(found, 7, "other", view.num_rows)


def test_files_that_differ_are_an_error(view, tmp_path):
    pq.write_table(pa.table({"label": [0]}), tmp_path / "train-00002.parquet")
    view = read_view(find_parquet_files(str(tmp_path), (str(tmp_path),)))
    with pytest.raises(ValueError, match="not all have the column clip_score"):
        read_column(view, find_columns(view)["clip_score"])

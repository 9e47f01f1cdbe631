"""Histograms of a column: their bins, the most frequent names, and names that stay texts."""

import numpy as np
from column_values import Column, ColumnValues, find_columns, read_column
from histogram import MAX_BINS, MAX_VALUES, count_names, count_numbers, histogram_html

from support.space_datasets import NAMES


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


def test_numbers_at_the_ends_of_their_range_are_shown(view):
    found = ColumnValues(Column("x", ("x",), "number"), np.array([1.7e308, 1.7e308, -np.inf]), (), np.zeros(3), 3)
    with np.errstate(over="ignore"):
        assert "3 values, mean inf" in histogram_html(found, None, "", 3)


def test_the_most_frequent_names_are_shown_and_the_others_counted():
    texts = tuple(f"text {number}" for number in range(50))
    values = np.repeat(np.arange(50.0), np.arange(50, 0, -1))
    found = ColumnValues(Column("prompt", ("prompt",), "text"), values, texts, np.zeros(len(values), np.int32), 9)
    counts = count_names(found, values)
    assert counts[0] == ("text 0", 50) and len(counts) == MAX_VALUES + 1
    assert counts[-1] == ("30 other values", sum(range(1, 31)))
    labels = ColumnValues(Column("l", ("l",), "number", ("a", "b")), np.array([1.0, 7, np.nan]), (), np.zeros(3), 3)
    assert count_names(labels, labels.values) == [("b", 1), ("7", 1), ("missing", 1)]


def test_a_class_is_counted_alone_and_hostile_names_stay_texts(view):
    found = read_column(view, find_columns(view)["zero_shot_label"])
    page = histogram_html(found, 1, NAMES[1], view.num_rows)
    assert "zero_shot_label of &lt;b&gt;heart&lt;/b&gt;: 4 values" in page and "<b>" not in page
    assert "no values" in histogram_html(found, 7, "other", view.num_rows)

"""A column's values as bars: of the whole dataset or of one class, in the same bins, so that classes compare."""

import numpy as np
from column_values import ColumnValues
from page_html import Bar, bar_chart, status_line

MAX_BINS = 12
# of texts and labels; the rest is one bar
MAX_VALUES = 20


def histogram_html(found: ColumnValues, label: int | None, class_name: str, num_rows: int) -> str:
    """Bars of the values, most of a class's or, for ``label`` None, of all rows.

    Args:
        found: what was read.
        label, class_name: of the class.
        num_rows: of the whole dataset, to say when only a part was read.
    """
    values = found.values if label is None else found.values[found.labels == label]
    of_class = "" if label is None else f" of {class_name}"
    part = f", of the first {found.num_rows:,} rows" if found.num_rows < num_rows else ""
    if len(values) == 0:
        return status_line(f"{found.column.name}{of_class}: no values{part}.")
    if found.column.kind == "text" or found.column.names:
        counts, middle = count_names(found, values), ""
    else:
        counts = count_numbers(found.values, values)
        known = values[np.isfinite(values)]
        middle = f", mean {_number(float(known.mean()))}" if len(known) else ""
    most = max(max(count for _, count in counts), 1)
    bars = [Bar(name, count / most, f"{count:,}", 1) for name, count in counts]
    caption = f"{found.column.name}{of_class}: {len(values):,} values{middle}{part}"
    return f'<div class="ub-tall" tabindex="0" role="region" aria-label="Histogram">{bar_chart(bars, caption)}</div>'


def count_numbers(every: np.ndarray, values: np.ndarray) -> list[tuple[str, int]]:
    """(range, count) of ``values`` in bins that span the finite ones of ``every``, or in few different numbers.

    What is no finite number is counted last, where there is any.
    """
    finite, known = every[np.isfinite(every)], values[np.isfinite(values)]
    different = np.unique(finite)
    if len(different) <= MAX_BINS:
        counts = [(_number(value), int((known == value).sum())) for value in different.tolist()]
    else:
        is_whole = bool((different == np.rint(different)).all())
        low, high = float(different[0]), float(different[-1])
        if is_whole:
            # bins that hold equally many whole numbers
            width = -(-int(high - low + 1) // MAX_BINS)
            edges = low + width * np.arange(-(-int(high - low + 1) // width) + 1, dtype=np.float64)
        else:
            edges = np.linspace(low, high, MAX_BINS + 1)
        numbers, _ = np.histogram(known, edges)
        ends = edges[1:] - 1 if is_whole else edges[1:]
        counts = [
            (_number(start) if start == end else f"{_number(start)} to {_number(end)}", int(number))
            for start, end, number in zip(edges.tolist(), ends.tolist(), numbers)
        ]
    unknown = len(values) - len(known)
    return [*counts, ("missing", unknown)] if unknown else counts


def count_names(found: ColumnValues, values: np.ndarray) -> list[tuple[str, int]]:
    """(name, count), the most frequent first, and one for all that are too rare to be shown."""
    names = found.texts or found.column.names
    numbers, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = [
        (names[int(value)] if 0 <= value < len(names) else _number(value), int(count))
        for value, count in zip(numbers[order[:MAX_VALUES]].tolist(), counts[order[:MAX_VALUES]])
    ]
    if rest := order[MAX_VALUES:].tolist():
        shown.append((f"{len(rest):,} other values", int(counts[rest].sum())))
    if unknown := int((~np.isfinite(values)).sum()):
        shown.append(("missing", unknown))
    return [(name or "(empty)", count) for name, count in shown]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) < 1e15 and value == round(value) else f"{value:.3g}"

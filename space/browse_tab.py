"""The tab that looks into an existing dataset: counts of its classes, histograms, and a page of images of one."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
import numpy as np
from column_values import find_columns, read_column
from dataset_rows import read_rows, unread_rows
from dataset_view import DatasetView, read_view
from details_panel import build_details
from histogram import histogram_html
from image_gallery import image_gallery
from page_html import Bar, bar_chart, plain_text, status_line
from parquet_files import find_parquet_files
from space_settings import SpaceSettings
from visitor import Visitor, item_at

PAGE_SIZE = 24
MAX_BARS = 200
ALL_CLASSES = "all classes"
FAILED = "The dataset could not be read, or the connection was lost; try again in a moment."


def build_browse_tab(settings: SpaceSettings, tab: gr.Tab, visitor: gr.State) -> None:
    """Lay the tab out and connect it; ``tab`` is the one that it lies in."""
    offered = settings.dataset_choices()
    with gr.Row(equal_height=False, elem_classes="ub-line"):
        name = gr.Dropdown(
            list(offered),
            value=next(iter(offered), None),
            allow_custom_value=True,
            label="Dataset",
            info="one from the list, or the id of a public dataset on the Hub: owner/name",
            scale=4,
            min_width=220,
            elem_id="dataset",
        )
        start = gr.Button("Open", variant="primary", scale=1, min_width=100, elem_id="open")
    status = gr.HTML(
        status_line(
            "Of the dataset, the labels and the column of the histogram are read, and the images that are shown."
        ),
        elem_id="browse-status",
    )
    with gr.Column(visible=False) as body, gr.Row(equal_height=False, elem_classes="ub-browse"):
        with gr.Column(scale=1, min_width=290, elem_classes="ub-counts"):
            counts = gr.HTML(elem_id="counts")
            column_choice = gr.Dropdown([], label="Histogram of", elem_id="browse-column")
            histogram = gr.HTML(elem_id="histogram")
        with gr.Column(scale=3, min_width=320):
            with gr.Row(equal_height=False):
                class_choice = gr.Dropdown([], label="Class", scale=3, min_width=160, elem_id="browse-class")
                page = gr.Number(1, precision=0, label="Page", scale=1, min_width=90, elem_id="browse-page")
            gallery = image_gallery("browse-gallery", num_columns=6)
            details = build_details("browse")

    def open_dataset(visitor: Visitor, name: Any) -> Iterator[dict[Any, Any]]:
        visitor.view, visitor.column, visitor.rows, visitor.chosen = None, None, [], None
        yield {status: status_line("Reading labels …", kind="busy"), body: gr.update(visible=False)}
        try:
            source = name.strip() if isinstance(name, str) else ""
            view = read_view(find_parquet_files(offered.get(source, source), tuple(offered.values())))
        except ValueError as error:
            yield {status: status_line(str(error), kind="error")}
            return
        visitor.view = view
        columns = find_columns(view)
        choices = [ALL_CLASSES, *class_choices(view)]
        yield {
            status: status_line(_summary(view)),
            body: gr.update(visible=True),
            class_choice: gr.update(choices=choices, value=ALL_CLASSES),
            page: 1,
            counts: counts_html(view),
            column_choice: gr.update(choices=list(columns), value=next(iter(columns), None), visible=len(columns) > 0),
        }

    def open_first(visitor: Visitor, name: Any) -> Iterator[dict[Any, Any]]:
        if visitor.view is None and name in offered:
            yield from open_dataset(visitor, name)
        else:
            yield {status: gr.skip()}

    def show_histogram(visitor: Visitor, class_choice: Any, name: Any) -> str:
        view = visitor.view
        column = find_columns(view).get(name) if view is not None and isinstance(name, str) else None
        if view is None or column is None:
            return ""
        found = visitor.column
        if found is None or found.column != column:
            try:
                visitor.column = found = read_column(view, column)
            except ValueError as error:
                return status_line(str(error), kind="error")
        label = _label(view, class_choice)
        return histogram_html(found, label, view.class_names[label] if label is not None else "", view.num_rows)

    def show_page(visitor: Visitor, class_choice: Any, page: Any) -> dict[Any, Any]:
        visitor.rows, visitor.chosen = [], None
        emptied = {gallery: gr.update(value=[], selected_index=None), **details.hidden()}
        view = visitor.view
        if view is None:
            return emptied
        label = _label(view, class_choice)
        total = view.num_rows if label is None else int(view.counts[label])
        num_pages = max(1, -(-total // PAGE_SIZE))
        number = int(min(max(page, 1), num_pages)) if isinstance(page, (int, float)) and page == page else 1
        try:
            visitor.rows = read_rows(view, label, (number - 1) * PAGE_SIZE, PAGE_SIZE)
        except ValueError as error:
            return {**emptied, status: status_line(str(error), kind="error")}
        items = [(row.image, f"row {row.position}") for row in visitor.rows]
        unread = unread_rows(view, label, (number - 1) * PAGE_SIZE, PAGE_SIZE, visitor.rows)
        note = f" No image could be shown of row {', '.join(map(str, unread))}." if unread else ""
        return {
            **emptied,
            status: status_line(f"{_summary(view)} Page {number} of {num_pages}.{note}"),
            gallery: gr.update(value=items, selected_index=None),
        }

    def show_first(visitor: Visitor, class_choice: Any, page: Any) -> dict[Any, Any]:
        # whoever comes back finds what was left there
        return {status: gr.skip()} if visitor.rows else show_page(visitor, class_choice, page)

    def choose(visitor: Visitor, event: gr.SelectData) -> dict[Any, Any]:
        visitor.chosen = item_at(visitor.rows, event.index)
        return details.shown(visitor, settings)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [status, gallery, *details.outputs]
    reading: dict[str, Any] = {"concurrency_limit": 4, "concurrency_id": "reading", **quiet}
    at_once: dict[str, Any] = {"queue": False, **quiet}

    def read(event: Any, function: Callable[..., Any], inputs: list[Any], outputs: Any) -> Any:
        """Connect what reads files; where it fails, the page says so."""
        connected = event(function, inputs, outputs, **reading)
        connected.failure(lambda: status_line(FAILED, kind="error"), None, status, **at_once)
        return connected

    counting, paging = [visitor, class_choice, column_choice], [visitor, class_choice, page]
    filled = [status, body, class_choice, page, counts, column_choice, histogram]
    opened = read(start.click, open_dataset, [visitor, name], filled)
    read(opened.success, show_page, paging, shown)
    read(opened.success, show_histogram, counting, histogram)
    # whoever comes to the tab sees the first of those that are offered
    opened = read(tab.select, open_first, [visitor, name], filled)
    read(opened.success, show_first, paging, shown)
    read(opened.success, show_histogram, counting, histogram)
    # another class begins at its first page
    read(class_choice.input(lambda: 1, None, page, **at_once).then, show_page, paging, shown)
    read(class_choice.input, show_histogram, counting, histogram)
    read(column_choice.input, show_histogram, counting, histogram)
    read(page.submit, show_page, paging, shown)
    read(page.blur, show_page, paging, shown)
    chosen = gallery.select(choose, visitor, details.outputs, queue=False, **quiet)
    chosen.then(None, js=details.scroll_there)
    details.connect(visitor)


def counts_html(view: DatasetView) -> str:
    """Rows per class as bars, the most frequent first where there are too many to show all."""
    labels = np.flatnonzero(view.counts)
    if len(labels) > MAX_BARS:
        labels = np.argsort(-view.counts, kind="stable")[:MAX_BARS]
    most = max(1, int(view.counts.max(initial=1)))
    bars = [
        Bar(view.class_names[label], view.counts[label] / most, f"{view.counts[label]:,}") for label in labels.tolist()
    ]
    if not bars:
        return status_line("No labels to count.")
    rest = f"; {len(bars)} of {np.count_nonzero(view.counts):,} classes" if len(view.counts) > MAX_BARS else ""
    return f'<div class="ub-tall" tabindex="0">{bar_chart(bars, f"Rows per class{rest}")}</div>'


def class_choices(view: DatasetView) -> list[tuple[str, str]]:
    """(text, label) of the classes that have rows; those that would read the same are told apart by their labels."""
    texts = {label: plain_text(view.class_names[label]) for label in np.flatnonzero(view.counts).tolist()}
    counts = Counter(texts.values())
    return [
        (f"{text}{f' #{label}' if counts[text] > 1 else ''} ({view.counts[label]:,})", str(label))
        for label, text in texts.items()
    ]


def _label(view: DatasetView, choice: Any) -> int | None:
    if isinstance(choice, str) and choice.isascii() and choice.isdigit() and int(choice) < len(view.class_names):
        return int(choice)
    return None


def _summary(view: DatasetView) -> str:
    part = ""
    if view.num_files < len(view.source.files):
        part = f" Counted: the first {view.num_files} of {len(view.source.files)} files."
    num_classes = np.count_nonzero(view.counts)
    return " ".join([f"{view.num_rows:,} rows, {num_classes:,} classes.{part}", *view.missing])

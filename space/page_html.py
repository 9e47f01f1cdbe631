"""Pieces of HTML for the page. Every text that comes from outside passes ``shown_text`` and is escaped here alone."""

import html
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LONGEST_TEXT = 400
LONGEST_LABEL = 60


def shown_text(value: object, longest: int = LONGEST_TEXT) -> str:
    """``str(value)`` as HTML that shows exactly this text: :func:`plain_text`, escaped."""
    return html.escape(plain_text(value, longest))


def plain_text(value: object, longest: int = LONGEST_TEXT) -> str:
    """``str(value)`` on one line, without control and direction marks, for where no HTML is read, as in a list."""
    kept = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in str(value))
    line = " ".join(kept.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def status_line(text: str, done: int | None = None, total: int | None = None, kind: str = "plain") -> str:
    """One line that screen readers announce, with a bar where there is something to count.

    Args:
        text: shown escaped.
        done, total: for the bar; None for no bar.
        kind: ``plain``, ``busy`` or ``error``.
    """
    bar = ""
    if done is not None and total:
        bar = f'<progress max="{int(total)}" value="{int(done)}">{int(done)} of {int(total)}</progress>'
    return (
        f'<div class="ub-status ub-{kind}" role="status" aria-live="polite"><span>{shown_text(text)}</span>{bar}</div>'
    )


def fact_list(facts: Mapping[str, object]) -> str:
    """Names and values below each other."""
    rows = "".join(f"<dt>{shown_text(name)}</dt><dd>{shown_text(value)}</dd>" for name, value in facts.items())
    return f'<dl class="ub-facts">{rows}</dl>' if rows else ""


@dataclass(frozen=True)
class Bar:
    """A labelled bar: ``share`` in [0, 1] is its length, ``text`` stands behind it, ``series`` picks its colour."""

    label: str
    share: float
    text: str
    series: int = 0


def bar_chart(bars: Iterable[Bar], caption: str, mark: float | None = None) -> str:
    """Horizontal bars as a table, so that it reads without colours and styles.

    Args:
        bars: from top to bottom.
        caption: what they show.
        mark: a share in [0, 1] marked by a line through every bar.
    """
    style = "" if mark is None else f' style="--ub-mark:{100 * min(max(mark, 0.0), 1.0):.2f}%"'
    marked = "" if mark is None else " ub-marked"
    rows = "".join(
        f'<tr><th scope="row">{shown_text(bar.label, LONGEST_LABEL)}</th>'
        f'<td class="ub-track{marked}"{style}><span class="ub-bar ub-series-{int(bar.series)}"'
        f' style="width:{100 * min(max(bar.share, 0.0), 1.0):.2f}%"></span></td>'
        f"<td>{shown_text(bar.text)}</td></tr>"
        for bar in bars
    )
    return f'<table class="ub-bars"><caption>{shown_text(caption)}</caption><tbody>{rows}</tbody></table>'


def table(header: Sequence[object], rows: Iterable[Sequence[object]], caption: str) -> str:
    """A table whose first column names the rows; wide ones scroll sideways."""
    head = "".join(f'<th scope="col">{shown_text(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{shown_text(row[0])}</th>'
        + "".join(f"<td>{shown_text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    shown = shown_text(caption)
    return (
        f'<div class="ub-scroll" tabindex="0" role="region" aria-label="{shown}"><table class="ub-table">'
        f"<caption>{shown}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )

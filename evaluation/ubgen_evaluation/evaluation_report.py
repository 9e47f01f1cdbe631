"""A report of figures side by side: JSON to compute with, Markdown and HTML to read, and one plot per group.

Columns are what is compared (backbones, or datasets), rows are figures.
"""

import base64
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .intervals import Interval

# which way a figure points, for the reader: 1 more is better, -1 less is; others say nothing alone
DIRECTIONS = {
    "accuracy": 1,
    "texture shape_fraction": 1,
    "texture inclination": -1,
    "context average": 1,
    "context pooled": 1,
    "background gap": -1,
    "transfer": 1,
    "own background": -1,
    "own texture": -1,
    "background entropy": 1,
    "texture entropy": 1,
    "hue entropy": 1,
    "class accuracy": 1,
    "pairwise distance": 1,
    "background similarity gap": -1,
    "background neighbour accuracy": -1,
    "FID": -1,
    "KID": -1,
    "precision": 1,
    "recall": 1,
    "classification accuracy score": 1,
}


@dataclass(frozen=True)
class ReportTable:
    """Figures of what is compared: ``columns[name][figure]``; ``is_plotted`` where each deserves a panel."""

    title: str
    columns: dict[str, dict[str, Interval]]
    is_plotted: bool = True

    @property
    def figures(self) -> list[str]:
        """Names of the figures, each once, in order."""
        return list(dict.fromkeys(figure for column in self.columns.values() for figure in column))


def write_report(tables: list[ReportTable], settings: dict[str, Any], folder: str | Path) -> Path:
    """Write ``report.json``, ``report.md``, ``report.html`` and the plots; returns the Markdown file.

    Args:
        tables: one for backbones, one for datasets, one for the contexts of datasets.
        settings: of the run, kept in the JSON.
        folder: made if it is not there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "settings": settings,
        "tables": {
            table.title: {
                name: {figure: _finite(interval) for figure, interval in column.items()}
                for name, column in table.columns.items()
            }
            for table in tables
        },
    }
    (folder / "report.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    plots = {table.title: _plot(table) for table in tables if table.is_plotted}
    lines = ["# Evaluation", ""]
    for table in tables:
        lines += [f"## {table.title}", "", *_markdown_table(table), ""]
        if table.title in plots:
            file = f"{table.title.lower()}.png"
            (folder / file).write_bytes(plots[table.title])
            lines += [f"![{table.title}]({file})", ""]
    lines += [_LEGEND, ""]
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")
    (folder / "report.html").write_text(_html(tables, plots), encoding="utf-8")
    return folder / "report.md"


_LEGEND = (
    "In brackets: 95% intervals, over resampled images, or for transfer by Student's t over the probes' seeds; they "
    "hold for this backbone or dataset as it is, not for another training of it. ↑ more is better, ↓ less is."
)


def _markdown_table(table: ReportTable) -> list[str]:
    names = [name.replace("|", "\\|") for name in table.columns]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for figure in table.figures:
        cells = [cell(column.get(figure)) for column in table.columns.values()]
        name = labelled(figure).replace("|", "\\|")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def labelled(figure: str) -> str:
    """The figure's name for readers, with the way that it points."""
    # a figure for each set, and for each placeholder
    more_is_better = figure.startswith("transfer ") or figure.endswith(" shown")
    direction = DIRECTIONS.get(figure) or int(more_is_better)
    return f"{figure.replace('_', ' ')}{' ↑' if direction > 0 else ' ↓' if direction < 0 else ''}"


def cell(interval: Interval | None) -> str:
    """A value and, in brackets, its interval; ``-`` where there is none."""
    if interval is None:
        return "-"
    text = _number(interval.value)
    if math.isfinite(interval.low):
        text += f" [{_number(interval.low)}, {_number(interval.high)}]"
    return text


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "undefined"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.3f}"


def _finite(interval: Interval) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in interval._asdict().items()}


def _plot(table: ReportTable) -> bytes:
    """A panel per figure, a bar per column, the interval as a whisker; PNG."""
    from matplotlib.figure import Figure

    figures, names = [figure for figure in table.figures if figure != "images"], list(table.columns)
    short = [Path(name).name or name for name in names]
    per_row = 4
    rows = max(1, -(-len(figures) // per_row))
    canvas = Figure(figsize=(3.2 * per_row, 2.4 * rows + 0.4), layout="constrained")
    for number, figure in enumerate(figures):
        axes = canvas.add_subplot(rows, per_row, number + 1)
        for position, name in enumerate(names):
            interval = table.columns[name].get(figure)
            if interval is None or not math.isfinite(interval.value):
                continue
            axes.bar(position, interval.value, color=f"C{position % 10}", width=0.7)
            if math.isfinite(interval.low):
                axes.plot([position, position], [interval.low, interval.high], color="black", linewidth=1.2)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_title(labelled(figure), fontsize=9)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set_xticks(range(len(names)), short, fontsize=7, rotation=20 if len(names) > 2 else 0)
        axes.tick_params(axis="y", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    canvas.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _html(tables: list[ReportTable], plots: dict[str, bytes]) -> str:
    """One page with the plots inside it, so that the file can be passed on alone."""
    from jinja2 import Environment

    shown = [
        {
            "title": table.title,
            "names": list(table.columns),
            "rows": [
                [labelled(figure), *(cell(column.get(figure)) for column in table.columns.values())]
                for figure in table.figures
            ],
            "plot": base64.b64encode(plots[table.title]).decode() if table.title in plots else None,
        }
        for table in tables
    ]
    return Environment(autoescape=True).from_string(_PAGE).render(tables=shown, legend=_LEGEND)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Evaluation</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { padding: 0.25rem 0.8rem; border-bottom: 1px solid #ccc; text-align: left; }
td + td { font-variant-numeric: tabular-nums; }
img { max-width: 100%; margin: 1rem 0; }
</style>
</head>
<body>
<h1>Evaluation</h1>
{% for table in tables %}
<h2>{{ table.title }}</h2>
<table>
<tr><th></th>{% for name in table.names %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% if table.plot %}<img src="data:image/png;base64,{{ table.plot }}" alt="{{ table.title }}">{% endif %}
{% endfor %}
<p>{{ legend }}</p>
</body>
</html>
"""

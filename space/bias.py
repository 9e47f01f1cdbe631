"""How biased the samples are: measured on a few samples with the mini world's own judge, or read from a report."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from page_html import Bar, bar_chart, shown_text, table
from request_limits import DrawRequest
from sampler import Cancellation, DrawnSample

from ubgen_pipeline.mini.judges import predict_factors
from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, OWN_BACKGROUND, OWN_TEXTURE, TEXTURE_NAMES

FIGURES = {
    "class accuracy": "Class accuracy: images that the judge recognises as their class",
    "own background": "Own background: images on the background that the class had in training; less is better",
    "own texture": "Own texture: images with the texture that the class had in training; less is better",
}
# what a world without bias would give
UNBIASED = {"own background": 1 / len(BACKGROUND_NAMES), "own texture": 1 / len(TEXTURE_NAMES)}
# an integer of JSON may be longer than any float
LARGEST_FIGURE = 1e300


@dataclass(frozen=True)
class BiasProgress:
    """Samples drawn so far, of how many; ``shares[variant][figure]`` in [0, 1] of those drawn."""

    done: int
    total: int
    shares: dict[str, dict[str, float]]
    num_samples: int


def measure_bias(
    draw: Callable[[DrawRequest, Cancellation], Iterator[DrawnSample]],
    cancellation: Cancellation,
    *,
    variants: tuple[str, ...],
    samples_per_class: int,
    seed: int,
    num_inference_steps: int,
    guidance_scale: float,
) -> Iterator[BiasProgress]:
    """Draw every class of the mini world from each variant at the same seeds; a progress after each class."""
    predictions: dict[str, list[np.ndarray]] = {variant: [] for variant in variants}
    total = len(CLASS_NAMES) * samples_per_class * len(variants)
    for label, name in enumerate(CLASS_NAMES):
        request = DrawRequest(name, variants, samples_per_class, seed, num_inference_steps, guidance_scale)
        drawn = list(draw(request, cancellation))
        if len(drawn) < request.num_images:
            return
        for variant in variants:
            images = np.stack([np.asarray(item.image) for item in drawn if item.variant == variant])
            factors = predict_factors(images)
            predictions[variant].append(
                np.stack(
                    [
                        factors["class"] == label,
                        factors["background"] == BACKGROUND_NAMES.index(OWN_BACKGROUND[name]),
                        factors["texture"] == TEXTURE_NAMES.index(OWN_TEXTURE[name]),
                    ]
                )
            )
        shares = {
            variant: dict(zip(FIGURES, np.concatenate(parts, axis=1).mean(axis=1).tolist()))
            for variant, parts in predictions.items()
        }
        num_samples = (label + 1) * samples_per_class
        yield BiasProgress(num_samples * len(variants), total, shares, num_samples)


def bias_html(progress: BiasProgress, shown_names: Mapping[str, str]) -> str:
    """One chart per figure; ``shown_names`` are those of the variants."""
    charts = []
    for figure, caption in FIGURES.items():
        bars = []
        for series, (variant, shares) in enumerate(progress.shares.items()):
            share = shares[figure]
            hits = round(share * progress.num_samples)
            bars.append(Bar(shown_names[variant], share, f"{hits} of {progress.num_samples}", series))
        charts.append(bar_chart(bars, caption, mark=UNBIASED.get(figure)))
    error = 2 * math.sqrt(0.25 / progress.num_samples)
    note = (
        f"The line marks a world without bias. Two standard errors of a share are at most {error:.0%}, and the judge's"
        " own mistakes come on top."
    )
    return f'<div class="ub-charts">{"".join(charts)}</div><p class="ub-note">{shown_text(note)}</p>'


def read_report(file: str | Path) -> Mapping[str, Any]:
    """The tables of a report.json of ``ubgen evaluate``: ``tables[title][column][figure]`` with value, low and high.

    Raises:
        ValueError: no such file, or another kind of JSON; names the variable of the Space and the file.
    """
    try:
        tables = json.loads(Path(file).read_text(encoding="utf-8"))["tables"]
        for columns in tables.values():
            for figures in columns.values():
                for interval in figures.values():
                    interval["value"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"UBGEN_REPORT is {str(file)!r}, which is no report.json of ubgen evaluate.") from error
    return tables


def report_html(tables: Mapping[str, Any]) -> str:
    """The report's tables, and a chart of each figure that is a share."""
    parts = []
    for title, named in tables.items():
        columns: dict[str, Any] = {}
        for name, values in named.items():
            shown = _last_part(name)
            while shown in columns:
                shown += "_"
            columns[shown] = values
        figures = list(dict.fromkeys(figure for column in columns.values() for figure in column))
        rows = [[figure, *(_interval(column.get(figure)) for column in columns.values())] for figure in figures]
        charts = []
        for figure in figures:
            values = {name: column.get(figure, {}).get("value") for name, column in columns.items()}
            is_share = all(_is_number(value) and 0 <= value <= 1 for value in values.values())
            if is_share and len(values) > 1:
                bars = [
                    Bar(name, value, _interval(columns[name][figure]), series % 4)
                    for series, (name, value) in enumerate(values.items())
                ]
                charts.append(bar_chart(bars, figure, mark=UNBIASED.get(figure)))
        parts.append(f'<h2 class="ub-title">{shown_text(title)}</h2><div class="ub-charts">{"".join(charts)}</div>')
        parts.append(table(["figure", *columns], rows, "with 95% intervals"))
    return "".join(parts)


def _interval(interval: Any) -> str:
    if not isinstance(interval, Mapping) or not _is_number(interval.get("value")):
        return "-"
    low, high = interval.get("low"), interval.get("high")
    text = _number(interval["value"])
    if _is_number(low) and _is_number(high):
        text += f" [{_number(low)}, {_number(high)}]"
    return text


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether there is something to show: a figure that could not be computed is NaN, which JSON files hold, too."""
    return isinstance(value, (int, float)) and abs(value) < LARGEST_FIGURE


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) >= 2 else f"{value:.3f}"


def _last_part(name: str) -> str:
    """Of a path on the machine that wrote the report, the last part only."""
    return Path(name).name if Path(name).is_absolute() else name

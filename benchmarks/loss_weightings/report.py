"""Findings, tables and plots of the loss weightings' figures, for a section of a Markdown page."""

import itertools
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.marked_part import write_marked_part

START, END = "<!-- loss weightings -->", "<!-- end of loss weightings -->"
UPDATES_PLOT, STEPS_PLOT = "loss_weightings_updates.png", "loss_weightings_steps.png"
LAST_FIGURES = {
    "fid": ("FID", 1),
    "kid": ("KID", 2),
    "clip_fid": ("FID, CLIP", 2),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "class_accuracy": ("class accuracy", 3),
}


@dataclass(frozen=True)
class Results:
    """``figures`` has a row for every run, number of updates, scheduler and number of steps that was scored."""

    settings: dict[str, Any]
    floors: dict[str, dict[str, float]]
    figures: list[dict[str, Any]]

    def values(self, figure: str, **wanted: Any) -> list[float]:
        """That figure of the rows that have these entries."""
        return [row[figure] for row in self.figures if all(row[name] == value for name, value in wanted.items())]

    @property
    def usual_sampling(self) -> dict[str, Any]:
        """How images are drawn in the comparison over updates."""
        return {"sampler": self.settings["sampler"], "num_steps": self.settings["num_inference_steps"]}

    @property
    def runs(self) -> list[tuple[str, str]]:
        """Every weighting that was scored, with its target; the noise target first."""
        pairs = dict.fromkeys((row["weighting"], row["target"]) for row in self.figures)
        order = self.settings["weightings"]
        return sorted(pairs, key=lambda pair: (pair[1] != "noise", pair[1], order.index(pair[0])))

    @property
    def sampled(self) -> dict[tuple[str, str], dict[int, float]]:
        """FID by number of steps, for each weighting and scheduler of the comparison over steps, as far as scored."""
        found = {}
        for weighting, sampler in itertools.product(self.settings["compared"], self.settings["samplers"]):
            run = {"weighting": weighting, "target": "noise", "seed": 0, "sampler": sampler}
            run["num_updates"] = self.settings["checkpoints"][-1]
            steps = {n: self.values("fid", num_steps=n, **run) for n in self.settings["sampler_steps"]}
            if any(steps.values()):
                found[weighting, sampler] = {n: values[0] for n, values in steps.items() if values}
        return found


def tables(results: Results) -> str:
    """Markdown: FID by updates, every figure at the last update, FID by sampling steps."""
    updates, last = results.settings["checkpoints"], results.settings["checkpoints"][-1]
    usual = results.usual_sampling
    by_updates, at_last = [], []
    for weighting, target in results.runs:
        run = {"weighting": weighting, "target": target, **usual}
        name = [weighting, target]
        by_updates.append([*name, *(_cell(results.values("fid", num_updates=n, **run), 1) for n in updates)])
        rows = [results.values(figure, num_updates=last, **run) for figure in LAST_FIGURES]
        digits = [digits for _, digits in LAST_FIGURES.values()]
        at_last.append([*name, str(len(rows[0])), *map(_cell, rows, digits)])
    for name, floor in results.floors.items():
        cells = [f"{floor[figure]:.{digits}f}" for figure, (_, digits) in LAST_FIGURES.items()]
        at_last.append([f"*{name}*", "", "", *cells])
    titles = [title for title, _ in LAST_FIGURES.values()]
    parts = [
        f"FID after so many updates, {usual['sampler']} with {usual['num_steps']} steps:",
        _table(["weighting", "target", *map(str, updates)], by_updates),
        f"Every figure after {last} updates; the last two rows are what no denoiser here can beat:",
        _table(["weighting", "target", "seeds", *titles], at_last),
    ]
    if results.sampled:
        steps = results.settings["sampler_steps"]
        rows = [
            [*names, *(_cell([found[n]] if n in found else [], 1) for n in steps)]
            for names, found in results.sampled.items()
        ]
        parts += [
            f"FID by sampling steps, weights after {last} updates of the first seed:",
            _table(["weighting", "sampler", *map(str, steps)], rows),
        ]
    return "\n\n".join(parts)


def findings(results: Results) -> str:
    """What the figures say of the source's claim, in plain words; a paragraph."""
    last, usual = results.settings["checkpoints"][-1], results.usual_sampling
    noise = {"target": "noise", "num_updates": last, **usual}
    seeds = {name: results.values("fid", weighting=name, **noise) for name in results.settings["weightings"]}
    scored = [name for name, values in seeds.items() if values]
    if not scored:
        return "No run is finished yet."
    fewest, most = (pick(len(seeds[name]) for name in scored) for pick in (min, max))
    parts = [f"Seeds of each weighting on the noise target: {fewest if fewest == most else f'{fewest} to {most}'}."]
    for figure, title, best_last in (("fid", "FID", False), ("class_accuracy", "class accuracy", True)):
        means = {name: statistics.fmean(results.values(figure, weighting=name, **noise)) for name in scored}
        order = sorted(scored, key=means.__getitem__, reverse=best_last)
        parts.append(f"After {last} updates by {title}, best first: {', '.join(order)}.")
    if missing := [name for name in seeds if name not in scored]:
        parts.append(f"Not measured yet: {', '.join(missing)}.")
    if {"constant", "debias"} <= set(scored):
        parts.append(_debias_against_constant(results, noise))
    if fewest == 1:
        parts.append("A difference that rests on one seed may be chance.")
    return " ".join(parts)


def _debias_against_constant(results: Results, noise: dict[str, Any]) -> str:
    pairs = []
    for row in results.figures:
        if row["weighting"] == "debias" and all(row[name] == value for name, value in noise.items()):
            constant = results.values("fid", weighting="constant", seed=row["seed"], **noise)
            pairs += [row["fid"] - value for value in constant]
    text = f"FID of debias less that of constant, seed by seed: {', '.join(f'{pair:+.1f}' for pair in pairs)}."
    both = [
        (found[steps], results.sampled["constant", sampler][steps])
        for (weighting, sampler), found in results.sampled.items()
        if weighting == "debias" and ("constant", sampler) in results.sampled
        for steps in found
        if steps in results.sampled["constant", sampler]
    ]
    if both:
        lower = sum(debias < constant for debias, constant in both)
        text += (
            f" With the same scheduler and number of steps debias has the lower FID in {lower} of {len(both)} cases."
        )
    return text


def _cell(values: Sequence[float], digits: int) -> str:
    """The mean over seeds, with its standard error where there are several."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot_results(results: Results, folder: Path) -> list[Path]:
    """Fidelity against updates, and against sampling steps where that was measured; PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / UPDATES_PLOT]
    _plot_updates(results, files[0])
    if results.sampled:
        files.append(folder / STEPS_PLOT)
        _plot_steps(results, files[1])
    return files


def _plot_updates(results: Results, file: Path) -> None:
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(10, 3.6), layout="constrained")
    panels = {"fid": "FID ↓", "kid": "KID ↓", "class_accuracy": "class accuracy ↑"}
    for number, (figure, title) in enumerate(panels.items(), start=1):
        axes = canvas.add_subplot(1, len(panels), number)
        for colour, weighting in enumerate(results.settings["weightings"]):
            run = {"weighting": weighting, "target": "noise", **results.usual_sampling}
            updates = [n for n in results.settings["checkpoints"] if results.values(figure, num_updates=n, **run)]
            if not updates:
                continue
            seeds = [results.values(figure, num_updates=n, **run) for n in updates]
            axes.plot(updates, list(map(statistics.fmean, seeds)), color=f"C{colour}", marker="o", label=weighting)
            # every seed as a dot, so that the spread is seen
            for update, values in zip(updates, seeds):
                axes.plot([update] * len(values), values, ".", color=f"C{colour}", alpha=0.5)
        _finish(axes, title, "updates")
    _save(canvas, file)


def _plot_steps(results: Results, file: Path) -> None:
    from matplotlib.figure import Figure

    compared = list(dict.fromkeys(weighting for weighting, _ in results.sampled))
    canvas = Figure(figsize=(4.2 * len(compared), 3.6), layout="constrained")
    shared = None
    for number, weighting in enumerate(compared, start=1):
        axes = shared = canvas.add_subplot(1, len(compared), number, sharey=shared)
        for colour, sampler in enumerate(results.settings["samplers"]):
            if found := results.sampled.get((weighting, sampler)):
                axes.plot(list(found), list(found.values()), color=f"C{colour}", marker="o", label=sampler)
        _finish(axes, f"{weighting}: FID ↓", "sampling steps")
    _save(canvas, file)


def _save(canvas: Any, file: Path) -> None:
    if canvas.axes[0].lines:
        canvas.axes[0].legend(frameon=False, fontsize=8)
    canvas.savefig(file, dpi=110)


def _finish(axes: Any, title: str, label: str) -> None:
    axes.set_xscale("log")
    ticks = sorted({value for line in axes.lines for value in line.get_xdata()})
    axes.set_xticks(ticks, [str(value) for value in ticks])
    axes.minorticks_off()
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def update_page(page: Path, results: Results, plots: Sequence[Path]) -> None:
    """Write findings, tables and plots between the page's marks.

    Raises:
        ValueError: the page has no marks, or one of them.
    """
    shown = [f"![{plot.stem.replace('_', ' ')}]({os.path.relpath(plot, page.parent)})" for plot in plots]
    content = "\n\n".join([findings(results), tables(results), *shown])
    write_marked_part(page, (START, END), content, heading="Loss weightings")

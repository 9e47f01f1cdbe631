"""The generated part of ``results/evidence_tables.md``: tables, plots and what they say, all from the figures alone.

    python -m benchmarks.evidence.page evidence/results.json results/evidence_tables.md

Only what lies between the two markers is replaced; the rest of the document is written by hand.
"""

import collections
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.figures import (
    BACKBONE_FIGURES,
    IMAGE_FIGURES,
    OWN_ARMS,
    Figure,
    ablations_of,
    all_figures,
    arm_label,
    arm_meaning,
    arms_of,
    transfer_figures,
    values_of,
)
from benchmarks.evidence.paired_tests import PairedTest, mean_error, paired_test
from benchmarks.evidence.plots import draw_plots
from benchmarks.evidence.stages import (
    BARE_ARM,
    BEGUN_ARM,
    CADS_ARM,
    CAPTIONED_ARM,
    LOGDET_ARM,
    MINI,
    PROMPTED_KEPT_ARM,
    VARIETY_ARM,
)
from benchmarks.marked_part import write_marked_part
from ubgen_pipeline.commands.console import say_error

BEGIN, END = "<!-- evidence: begin, written by the command -->", "<!-- evidence: end -->"
SIGNIFICANT = 0.05
# what each arm of ubgen's own is compared with
COMPARED_WITH = {
    VARIETY_ARM: ("base", "ubgen"),
    LOGDET_ARM: ("base", "ubgen", VARIETY_ARM, "prompted", "distilled", "unbiased"),
    BEGUN_ARM: ("base", LOGDET_ARM, "prompted", "distilled", "unbiased"),
    CAPTIONED_ARM: ("base", CADS_ARM, "ubgen", LOGDET_ARM, "prompted", PROMPTED_KEPT_ARM, "unbiased"),
    BARE_ARM: ("base", CAPTIONED_ARM),
}


def compare(results: Mapping[str, Any], first: str, second: str, key: str) -> PairedTest | None:
    """The paired test on the seeds that both have, or None where there are none."""
    one, other = values_of(results, first, key), values_of(results, second, key)
    seeds = sorted(one.keys() & other.keys())
    return paired_test([one[seed] for seed in seeds], [other[seed] for seed in seeds]) if seeds else None


def figures_table(results: Mapping[str, Any]) -> str:
    """Mean ± standard error of every figure, one column for each arm, in Markdown."""
    arms = arms_of(results)
    rows = []
    for figure in all_figures(results):
        cells = []
        for arm in arms:
            values = list(values_of(results, arm, figure.key).values())
            cells.append(_mean_text(values, figure) if values else "-")
        arrow = {1: "↑", -1: "↓"}[figure.sign]
        rows.append([f"{figure.label} {arrow}", *cells])
    return _table(["", *map(arm_label, arms)], rows)


def tests_table(results: Mapping[str, Any], first: str, second: str, figures: Sequence[Figure]) -> str:
    """Differences ``first`` minus ``second`` with intervals and p values, in Markdown."""
    rows = []
    for figure in figures:
        test = compare(results, first, second, figure.key)
        if test is not None:
            rows.append([f"{figure.label} {'↑' if figure.sign > 0 else '↓'}", *_test_cells(test, figure)])
    return _table(["", "difference", "95% interval", "t-test p", "Wilcoxon p", "seeds better"], rows)


def ablations_tables(results: Mapping[str, Any], full: str = "ubgen") -> str:
    """What each ablation changes against the arm ``full``: transfer with all of its test, the rest with p alone."""
    first, *others = _ablation_figures(results)
    tested, brief = [], []
    for arm in ablations_of(results, full):
        tests = {figure: compare(results, arm, full, figure.key) for figure in (first, *others)}
        if tests[first] is not None:
            tested.append([arm_label(arm), *_test_cells(tests[first], first)])
        cells = [_brief_test(test, figure) for figure, test in tests.items()]
        brief.append([arm_label(arm), *cells[1:]])
    head = [f"{figure.label} {'↑' if figure.sign > 0 else '↓'}" for figure in (first, *others)]
    less = f"less {arm_label(full)}"
    columns = [less, "95% interval", "t-test p", "Wilcoxon p", "seeds better"]
    return f"{_table([head[0], *columns], tested)}\n\n{_table([less, *head[1:]], brief)}"


def _brief_test(test: PairedTest | None, figure: Figure) -> str:
    if test is None:
        return "-"
    difference = _signed(test.difference, figure)
    return difference if math.isnan(test.t_p) else f"{difference} (p {_p(test.t_p)})"


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """One sentence for each of the paper's claims, whether it shows here."""
    claims = [
        ("ubgen", "base", [*transfer_figures(results), *_bias_figures(), BACKBONE_FIGURES[0]]),
        ("ubgen", "real", transfer_figures(results)[:1]),
    ]
    claims += [("ubgen", arm, transfer_figures(results)[:1]) for arm in ablations_of(results, "ubgen")]
    return _verdicts(results, claims)


def own_verdicts(results: Mapping[str, Any], arm: str) -> list[str]:
    """As :func:`verdicts`, of an arm of :data:`OWN_ARMS`: against the base generator and the other losses."""
    figures = [*transfer_figures(results), *_bias_figures(), BACKBONE_FIGURES[0], *IMAGE_FIGURES[:6]]
    claims = [(arm, other, figures) for other in COMPARED_WITH[arm]]
    claims += [(arm, less, transfer_figures(results)[:1]) for less in ablations_of(results, arm)]
    return _verdicts(results, claims)


def _verdicts(results: Mapping[str, Any], claims: Sequence[tuple[str, str, Sequence[Figure]]]) -> list[str]:
    sentences = []
    for first, second, figures in claims:
        for figure in figures:
            test = compare(results, first, second, figure.key)
            if test is not None and first in arms_of(results):
                sentences.append(_verdict(first, second, figure, test))
    return sentences


def page_text(results: Mapping[str, Any], prefix: str = "images/evidence_tables") -> str:
    """The generated part, without its markers; ``prefix`` is how the names of its pictures begin."""
    arms, settings = arms_of(results), results["settings"]
    seeds = sorted({run["seed"] for run in results["runs"]})
    parts = [
        f"{len(seeds)} seeds ({', '.join(map(str, seeds))}); "
        f"{10 * settings['samples_per_class']:,} images for each arm and seed, of the generator "
        f"`{settings.get('model', MINI)}` where they are drawn, {settings['num_inference_steps']} "
        f"denoising steps, guidance {settings['guidance_scale']:g}; {settings['num_scenes']:,} scenes in each test "
        f"set. Mean ± standard error over the seeds; ↑ higher is better, ↓ lower.",
        "\n".join(f"- **{arm_label(arm)}**: {arm_meaning(arm)}{_fewer_seeds(results, arm, seeds)}" for arm in arms),
        _precision_text(results),
    ]
    if VARIETY_ARM in arms:
        parts.append(f"Weight of `class_variety` in ubgen + variety: {settings['variety_weight']:g}.")
    changed = {
        "set": "",
        "set_variety": " in the arms with variety",
        "set_logdet": " in the arms with log-det",
        "set_captioned": " in the arms with captions",
    }
    for name, where in changed.items():
        if settings.get(name):
            listed = ", ".join(f"`{one}`" for one in settings[name])
            parts.append(f"Training settings that differ from the file{where}: {listed}.")
    for name, figures in results.get("clip", {}).items():
        accuracies = ", ".join(f"{key} {value:.1%}" for key, value in figures.items())
        parts.append(f"The {name}: {accuracies}, over 2,000 unbiased scenes.")
    parts += ["### Figures", figures_table(results)]
    parts += [f"![{alt}]({prefix}_{name}.png)" for name, alt in PLOTS.items()]
    parts.append(f"Images of seed {seeds[0]}:\n\n![Datasets of each arm, one row per class]({prefix}_samples.jpg)")
    if {"base", "ubgen"} <= {*arms}:
        parts += [
            "### ubgen against base, paired by seed",
            tests_table(results, "ubgen", "base", all_figures(results)),
        ]
    for own_arm, others in COMPARED_WITH.items():
        for other in others:
            if {own_arm, other} <= {*arms}:
                parts += [
                    f"### {arm_label(own_arm)} (not the paper's) against {arm_label(other)}, paired by seed",
                    tests_table(results, own_arm, other, all_figures(results)),
                ]
    for full in ("ubgen", *OWN_ARMS):
        if ablations_of(results, full) and full in arms:
            name = "the full loss" if full == "ubgen" else arm_label(full)
            parts += [f"### Each ablation against {name}, paired by seed", ablations_tables(results, full)]
    found, own = verdicts(results), {arm: own_verdicts(results, arm) for arm in OWN_ARMS}
    if found or any(own.values()):
        note = (
            f"A claim holds here if its difference has the right sign and p < {SIGNIFICANT:g} in the two-sided "
            f"paired t-test; no correction for the number of claims. With {len(seeds)} seeds the signed-rank test "
            f"cannot fall below p = {2 / 2 ** len(seeds):.3g}, so it is shown beside and not decided by."
        )
        parts += ["### Which claims show here", note]
    if found:
        parts.append("\n".join(f"- {sentence}" for sentence in found))
    for arm, sentences in own.items():
        if sentences:
            parts.append(f"Of {arm_label(arm)}, by the same rule; no claim of the paper's:")
            parts.append("\n".join(f"- {sentence}" for sentence in sentences))
    return "\n\n".join(parts)


PLOTS = {
    "transfer": "Transfer to novel silhouettes against the share of training images",
    "bias": "Texture inclination, background gap and context bias of the backbones",
    "images": "Own background, own texture and diversity of the images",
}


def write_page(results: Mapping[str, Any], file: Path) -> None:
    """Replace the generated part of ``file``, and draw the plots beside it; a new file gets a heading.

    Raises:
        ValueError: the file has no markers, or one of them.
    """
    plots = {name: picture_file(file, f"{name}.png") for name in PLOTS}
    write_marked_part(file, (BEGIN, END), page_text(results, f"images/{file.stem}"), heading="Evidence")
    draw_plots(results, plots)


def picture_file(page: Path, name: str) -> Path:
    """Where a picture of ``page`` lies, named after it, so that each page has its own; makes the folder."""
    folder = page.parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{page.stem}_{name}"


def _precision_text(results: Mapping[str, Any]) -> str:
    settings = results["settings"]
    drawn = collections.Counter(run["dtype"] for run in results["runs"] if run["dtype"] is not None)
    text = f"Each stage ran on {_count(settings['threads'], 'thread')}"
    if drawn:
        many = len(drawn) > 1
        listed = [dtype + (f" ({_count(number, 'run')})" if many else "") for dtype, number in sorted(drawn.items())]
        text += f"; generators were tuned and images drawn in {' and '.join(listed)}"
    asked = settings["asked_dtype"]
    if drawn.keys() - {asked}:
        text += f". {asked} was asked for, but a CPU without instructions for it takes float32"
    return f"{text}."


def _fewer_seeds(results: Mapping[str, Any], arm: str, seeds: Sequence[int]) -> str:
    there = sorted(run["seed"] for run in results["runs"] if run["arm"] == arm)
    return (
        "" if there == list(seeds) else f" (so far seed{'s' if len(there) > 1 else ''} {', '.join(map(str, there))})"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")


def _bias_figures() -> list[Figure]:
    return [figure for figure in BACKBONE_FIGURES if figure.key in _BIAS_KEYS]


_BIAS_KEYS = ("texture inclination", "context average", "background gap")


def _ablation_figures(results: Mapping[str, Any]) -> list[Figure]:
    return [*transfer_figures(results), BACKBONE_FIGURES[0], *_bias_figures(), IMAGE_FIGURES[0], IMAGE_FIGURES[1]]


def _verdict(first: str, second: str, figure: Figure, test: PairedTest) -> str:
    is_better = test.difference * figure.sign > 0
    size = _number(abs(test.difference), figure) + (" points" if figure.is_share else "")
    word = ("higher" if test.difference > 0 else "lower") if test.difference else "equal"
    fact = (
        f"{figure.label}: {arm_label(first)} is {size} {word} than {arm_label(second)}"
        if test.difference
        else f"{figure.label}: equal"
    )
    if math.isnan(test.t_p):
        return f"**Not tested** (one seed). {fact}."
    if test.t_p >= SIGNIFICANT:
        return f"**Not shown.** {fact}, p = {_p(test.t_p)}."
    p = _p(test.t_p) if test.t_p < 0.001 else f"= {_p(test.t_p)}"
    return f"**{'Holds' if is_better else 'Does not hold'}.** {fact}, p {p}."


def _test_cells(test: PairedTest, figure: Figure) -> list[str]:
    num_better = test.num_positive if figure.sign > 0 else test.num_pairs - test.num_positive
    if math.isnan(test.t_p):
        return [_signed(test.difference, figure), "-", "-", "-", f"{num_better} of {test.num_pairs}"]
    interval = f"{_signed(test.low, figure)} to {_signed(test.high, figure)}"
    cells = [_signed(test.difference, figure), interval, _p(test.t_p), _p(test.wilcoxon_p)]
    return [*cells, f"{num_better} of {test.num_pairs}"]


def _mean_text(values: Sequence[float], figure: Figure) -> str:
    found = mean_error(values)
    text = _number(found.mean, figure)
    return text if math.isnan(found.standard_error) else f"{text} ± {_number(found.standard_error, figure)}"


def _number(value: float, figure: Figure) -> str:
    return f"{100 * value:.1f}" if figure.is_share else f"{value:.3f}"


def _signed(value: float, figure: Figure) -> str:
    return f"{100 * value:+.1f}" if figure.is_share else f"{value:+.3f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page again from a file of figures; 2 unless both are given."""
    argv = sys.argv[1:] if argv is None else argv
    if len(argv) != 2:
        say_error("usage: python -m benchmarks.evidence.page RESULTS_JSON PAGE")
        return 2
    source, page = argv
    write_page(json.loads(Path(source).read_text(encoding="utf-8")), Path(page))
    return 0


if __name__ == "__main__":
    sys.exit(main())

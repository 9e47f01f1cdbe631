"""The three plots of the evidence: transfer, bias of the backbones, and what the images are like."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.evidence.figures import arm_label, arms_of, transfer_key, values_of
from benchmarks.evidence.paired_tests import mean_error
from benchmarks.evidence.stages import FULL_LOSS, LOGDET_ARM, VARIETY_ARM, ablation

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLOURS = {
    "real": "#000000",
    "unbiased": "#7F7F7F",
    "base": "#D55E00",
    "cads": "#F0E442",
    "prompted": "#A6761D",
    "prompted_kept": "#666600",
    "distilled": "#E7298A",
    "ubgen": "#0072B2",
    # not one of that palette; darker than all but black
    "ubgen_variety": "#6A3D9A",
    "ubgen_logdet": "#117733",
    "captioned": "#44AA99",
    "no_en": "#E69F00",
    "no_in": "#009E73",
    "no_q": "#CC79A7",
    "weak_clip": "#56B4E9",
    "with_en": "#8C510A",
    "with_q": "#DF65B0",
    "no_variety": "#882255",
}
_BIAS = (
    ("texture inclination", "texture inclination, %\n(lower is better)", 100.0),
    ("background gap", "background gap, points\n(lower is better)", 100.0),
    ("context average", "context bias, average, %\n(higher is better)", 100.0),
)
_IMAGES = (
    ("own background", "own background, %\n(lower is better)", 100.0),
    ("own texture", "own texture, %\n(lower is better)", 100.0),
    ("background entropy", "background entropy, bits\n(higher is better)", 1.0),
    ("hue entropy", "hue entropy, bits\n(higher is better)", 1.0),
    ("pairwise distance", "pairwise CLIP distance\n(higher is better)", 1.0),
)
_STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "figure.dpi": 120,
    "savefig.dpi": 120,
}


def draw_plots(results: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Save the plots ``transfer``, ``bias`` and ``images`` as these PNG files."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context(_STYLE):
        _draw_transfer(results, files["transfer"])
        _draw_panels(results, _BIAS, files["bias"])
        _draw_panels(results, _IMAGES, files["images"])


def _draw_transfer(results: Mapping[str, Any], file: Path) -> None:
    from matplotlib import pyplot

    settings = results["settings"]
    shares = sorted(settings["transfer_shares"])
    figure, axes = pyplot.subplots(figsize=(8.2, 4.2))
    ends = {}
    for arm in arms_of(results):
        rows = [_values(results, arm, transfer_key(share)) for share in shares]
        means = [mean_error(values) for values in rows if values]
        there = [share for share, values in zip(shares, rows) if values]
        if not means:
            continue
        axes.errorbar(
            there,
            [100 * one.mean for one in means],
            yerr=[100 * _finite(one.standard_error) for one in means],
            color=_colour(arm),
            linestyle=_line(arm),
            marker="o",
            markersize=5,
            linewidth=1.8,
            capsize=3,
        )
        ends[arm] = 100 * means[-1].mean
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    for arm, place in _spread(ends, 0.055 * (high - low)).items():
        axes.annotate(
            arm_label(arm),
            (max(shares), ends[arm]),
            xytext=(max(shares) * 1.08, place),
            color=_colour(arm),
            va="center",
            fontweight="bold",
            annotation_clip=False,
        )
    axes.set_xlabel(f"share of the {settings['transfer_images']:,} training images")
    axes.set_ylabel("accuracy on novel silhouettes, %")
    axes.set_title("Linear probe on frozen backbones: mean ± standard error over seeds", loc="left")
    axes.grid(axis="y", alpha=0.25)
    figure.subplots_adjust(left=0.09, right=0.76, top=0.91, bottom=0.13)
    figure.savefig(file)
    pyplot.close(figure)


def _draw_panels(results: Mapping[str, Any], panels, file: Path) -> None:
    from matplotlib import pyplot

    arms = arms_of(results)
    figure, all_axes = pyplot.subplots(
        1, len(panels), figsize=(2.6 * len(panels) + 1, 1.3 + 0.42 * len(arms)), sharey=True
    )
    for axes, (key, title, scale) in zip(all_axes, panels):
        for row, arm in enumerate(arms):
            values = [scale * value for value in _values(results, arm, key)]
            if not values:
                continue
            found = mean_error(values)
            axes.scatter(values, [row] * len(values), s=16, color=_colour(arm), alpha=0.35, linewidths=0)
            error = _finite(found.standard_error)
            axes.errorbar(found.mean, row, xerr=error, color=_colour(arm), marker="o", markersize=6, capsize=3)
            text = f"{found.mean:.1f}" if scale > 1 else f"{found.mean:.2f}"
            axes.annotate(text, (found.mean, row), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9)
        axes.set_title(title, loc="left")
        axes.set_ylim(len(arms) - 0.5, -0.7)
        axes.margins(x=0.15)
        axes.grid(axis="x", alpha=0.25)
        axes.tick_params(axis="y", length=0)
    all_axes[0].set_yticks(range(len(arms)), [arm_label(arm) for arm in arms])
    for label, arm in zip(all_axes[0].get_yticklabels(), arms):
        label.set_color(_colour(arm))
        label.set_fontweight("bold")
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


def _colour(arm: str) -> str:
    """An ablation of an arm of ubgen's own has the colour of the same ablation of the paper's loss."""
    return COLOURS[ablation(arm) or arm]


def _line(arm: str) -> str:
    return {VARIETY_ARM: "--", LOGDET_ARM: ":"}.get(FULL_LOSS.get(arm, ""), "-")


def _values(results: Mapping[str, Any], arm: str, key: str) -> list[float]:
    return list(values_of(results, arm, key).values())


def _finite(value: float) -> float:
    return value if value == value else 0.0


def _spread(places: Mapping[str, float], least: float) -> dict[str, float]:
    """Places of labels, moved apart to ``least`` between neighbours, around where they were."""
    order = sorted(places, key=places.__getitem__)
    moved: list[float] = []
    for arm in order:
        moved.append(max(places[arm], moved[-1] + least) if moved else places[arm])
    shift = sum(after - places[arm] for arm, after in zip(order, moved)) / max(1, len(order))
    return {arm: after - shift for arm, after in zip(order, moved)}

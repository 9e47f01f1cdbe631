"""The trainers side by side: the same rewards, and as many images drawn or as many seconds, on both mini models.

    python -m benchmarks.trainer_comparison                      # goes on from what is there
    python -m benchmarks.trainer_comparison --models mini --arms untuned even_k --seeds 0

``trainer_comparison.yaml`` says what each arm trains with, and for how long: once for so many images, once for so many
seconds. A training's time is that of one core, whatever else the machine does, and its figures come from fresh images
of its LoRA. Every stage is one of :mod:`benchmarks.evidence` and is kept under a hash of its settings, so the command
can be stopped and started again; figures of runs that ended are kept in a file, too, and such a run is not made again
elsewhere.
"""

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.evidence.command import EvidenceSettings
from benchmarks.evidence.kept_figures import make_figures
from benchmarks.evidence.stages import STAGE_VERSIONS, Stage
from benchmarks.marked_part import write_marked_part
from ubgen_pipeline.commands.console import say_error
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command

ARMS_FILE = Path(__file__).with_suffix(".yaml")
MODELS = ("mini", "mini-flow")
TRAINERS = ("ubgen", "ddpo", "nft")
MARKS = ("<!-- comparison: begin, written by the command -->", "<!-- comparison: end -->")
KINDS = ("tuned", "images", "judged")
# what every training has as much of as the others
BUDGETS = ("images", "seconds")
# more than any training makes in its seconds
_NO_LIMIT = 100_000
# settings of a training that are those of its rewards, too
_REWARD_SETTINGS = (
    "reward_funcs",
    "reward_weights",
    "clip_model",
    "clip_prompt",
    "quality_model",
    "recognition_model",
)
# (key of the figure, heading, how a value is printed)
COLUMNS = (
    ("pairwise distance", "diversity", "{:.3f}"),
    ("class accuracy", "recognised", "{:.1%}"),
    ("own background", "own background", "{:.1%}"),
    ("background entropy", "background, bits", "{:.2f}"),
    ("images drawn", "images", "{:.0f}"),
    ("seconds of one core", "seconds", "{:.0f}"),
    ("gain per minute", "gain a minute", "{:.4f}"),
    ("peak memory", "peak memory, MB", "{:.0f}"),
)


@dataclass(frozen=True)
class ComparisonSettings:
    """Settings of the comparison."""

    output_dir: str = field_help("folder of every stage", "trainer_comparison")
    arms_file: str = field_help("YAML file of the arms", str(ARMS_FILE))
    arms: list[str] | None = field_help("names of arms; all of the file, if not given", None)
    models: list[str] | None = field_help(f"of {', '.join(MODELS)}; those of the file, if not given", None)
    seeds: list[int] | None = field_help("seeds; those of the file, if not given", None)
    budgets: list[str] | None = field_help(f"of {', '.join(BUDGETS)}; both, if not given", None)
    page: str = field_help("file of the tables", "results/trainer_comparison.md")
    figures_file: str = field_help("file of the figures of all runs that ended", "results/trainer_comparison.json")
    workers: int | None = field_help("stages at the same time; as many as there are cores, if not given", None)
    stages_only: list[str] | None = field(default=None, metadata={"help": f"kinds to run, of {', '.join(KINDS)}"})

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.stages_only or () if kind not in KINDS]:
            raise ValueError(f"stages_only holds {unknown[0]!r}; choose of {', '.join(KINDS)}.")
        if unknown := [budget for budget in self.budgets or () if budget not in BUDGETS]:
            raise ValueError(f"budgets holds {unknown[0]!r}; choose of {', '.join(BUDGETS)}.")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}; give 1 or more.")


class Arm(NamedTuple):
    """How one model is trained: ``config`` are settings of ``trainer``, which is None where nothing is trained."""

    name: str
    model: str
    trainer: str | None
    config: Mapping[str, Any]


class ComparedRun(NamedTuple):
    """An arm with one seed and what it has as much of as the others, and its last stage."""

    arm: Arm
    seed: int
    budget: str
    judged: Stage


class Comparison(NamedTuple):
    """The file of arms as it was read; ``images`` are those that each training draws, ``seconds`` what it takes."""

    arms: list[Arm]
    seeds: list[int]
    images: int
    seconds: float
    samples_per_class: int


def read_comparison(settings: ComparisonSettings) -> Comparison:
    """What is asked for of the file.

    Raises:
        ValueError: a file that cannot be read, an arm named twice, or an arm or model that is not there.
    """
    try:
        read = yaml.safe_load(Path(settings.arms_file).read_text(encoding="utf-8"))
        images, samples, seconds = int(read["images"]), int(read["samples_per_class"]), float(read["seconds"])
        seeds = list(settings.seeds or read["seeds"])
        arms = [
            Arm(
                str(arm["name"]),
                str(model),
                arm.get("trainer"),
                dict(read["common"])
                | dict(changes)
                | dict((read.get("trainers") or {}).get(arm.get("trainer")) or {})
                | dict(arm.get("set") or {}),
            )
            for model, changes in read["models"].items()
            for arm in read["arms"]
            if model in arm.get("models", [model])
        ]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"arms_file {settings.arms_file!r} could not be read ({error!r}); write it as {ARMS_FILE.name} is written."
        ) from error
    if len({(arm.name, arm.model) for arm in arms}) != len(arms):
        raise ValueError(f"arms_file {settings.arms_file!r} names an arm twice; name each once.")
    for arm in arms:
        if arm.model not in MODELS or arm.trainer not in (None, *TRAINERS):
            raise ValueError(
                f"arms_file has the arm {arm.name!r} with the model {arm.model!r} and the trainer {arm.trainer!r}; "
                f"choose of {', '.join(MODELS)} and of {', '.join(TRAINERS)}."
            )
    for name, part in (("arms", "name"), ("models", "model")):
        known = sorted({getattr(arm, part) for arm in arms})
        if unknown := [one for one in getattr(settings, name) or () if one not in known]:
            raise ValueError(f"{name} holds {unknown[0]!r}; {settings.arms_file} has {', '.join(known)}.")
        if getattr(settings, name) is not None:
            arms = [arm for arm in arms if getattr(arm, part) in getattr(settings, name)]
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds:g}; give more than 0.")
    return Comparison(arms, seeds, images, seconds, samples)


def list_compared_runs(settings: ComparisonSettings) -> list[ComparedRun]:
    """Every arm and seed, one seed after the other, so that what is finished can be compared.

    Raises:
        ValueError: a setting that cannot work, or a number of images that no whole number of updates draws.
    """
    comparison, root = read_comparison(settings), Path(settings.output_dir).resolve()
    limits: dict[tuple[str, str, str], dict[str, Any]] = {}
    for arm in comparison.arms:
        if arm.trainer is not None:
            config = dict(arm.config) | {"model_name_or_path": arm.model}
            by_images = {"max_steps": num_updates(arm, config, comparison.images)}
            limits[arm.name, arm.model, "images"] = {"config": config | by_images}
            by_seconds = {"config": config | {"max_steps": _NO_LIMIT}, "seconds": comparison.seconds}
            limits[arm.name, arm.model, "seconds"] = by_seconds
    runs = []
    for budget in BUDGETS if settings.budgets is None else settings.budgets:
        for seed in comparison.seeds:
            for arm in comparison.arms:
                name, inputs = f"{arm.name} of {arm.model}/{seed}", {}
                if arm.trainer is not None:
                    limit = limits[arm.name, arm.model, budget]
                    config = limit["config"] | {"seed": seed}
                    tuned = {"trainer": arm.trainer, "model": arm.model, **limit, "config": config}
                    inputs["lora"] = Stage("tuned", name, root, tuned)
                drawn = {
                    "model": arm.model,
                    "samples_per_class": comparison.samples_per_class,
                    "num_inference_steps": arm.config["num_inference_steps"],
                    "guidance_scale": arm.config["guidance_scale"],
                    "dtype": "float32",
                    "threads": 1,
                    "seed": seed,
                }
                both = {"images": Stage("images", name, root, drawn, dict(inputs))}
                both |= {"tuned": inputs["lora"]} if inputs else {}
                rewards = {key: arm.config[key] for key in _REWARD_SETTINGS if key in arm.config}
                runs.append(ComparedRun(arm, seed, budget, Stage("judged", name, root, {"rewards": rewards}, both)))
    return runs


def num_updates(arm: Arm, config: Mapping[str, Any], images: int) -> int:
    """Updates in which a training draws so many images in all.

    Raises:
        ValueError: a setting that the trainer refuses, or no whole number of updates draws so many.
    """
    from ubgen_training.ddpo.ddpo_config import DDPOConfig
    from ubgen_training.nft.nft_config import NFTConfig
    from ubgen_training.ubgen.ubgen_config import UbGenConfig

    config_type = {"ubgen": UbGenConfig, "ddpo": DDPOConfig, "nft": NFTConfig}[str(arm.trainer)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.yaml"
        file.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        parsed: Any = parse_settings(config_type, ["--config", str(file), "--use_cpu", "true", "--output_dir", folder])
    updates = images / parsed.images_per_update
    if updates < 1 or updates != int(updates):
        raise ValueError(
            f"images is {images}, but an update of the arm {arm.name!r} draws {parsed.images_per_update:g}; choose a "
            "multiple of that."
        )
    return int(updates)


def comparison_table(runs: Sequence[ComparedRun], figures_of: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for every arm of one model that has figures, in Markdown: mean and standard deviation over its seeds."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    untuned = {
        run.seed: objective(run.arm, figures_of[run.judged.key])
        for run in runs
        if run.arm.trainer is None and run.judged.key in figures_of
    }
    for run in runs:
        if run.judged.key in figures_of:
            figures = dict(figures_of[run.judged.key])
            if run.arm.trainer is not None and run.seed in untuned:
                gain = objective(run.arm, figures) - untuned[run.seed]
                figures["gain per minute"] = gain / (figures["seconds of one core"] / 60)
            grouped.setdefault(run.arm.name, []).append(figures)
    rewards = sorted({key for found in grouped.values() for key in found[0] if key.startswith("reward ")})
    columns = [(key, f"`{key.removeprefix('reward ')}`", "{:.4f}") for key in rewards] + list(COLUMNS)
    lines = [f"| arm | seeds | {' | '.join(heading for _, heading, _ in columns)} |"]
    lines.append(f"|---|---:|{'---:|' * len(columns)}")
    for name, found in grouped.items():
        cells = [_cell([one[key] for one in found if key in one], form, key) for key, _, form in columns]
        lines.append(f"| {name} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def objective(arm: Arm, figures: Mapping[str, float]) -> float:
    """The weighted sum of the rewards that an arm is trained on, of fresh images."""
    names = arm.config["reward_funcs"]
    weights = arm.config.get("reward_weights") or [1.0] * len(names)
    return sum(weight * figures[f"reward {name}"] for name, weight in zip(names, weights, strict=True))


def _cell(values: Sequence[float], form: str, key: str) -> str:
    if not values:
        return "-"
    scaled = [value / 1e6 for value in values] if key == "peak memory" else values
    mean = form.format(statistics.fmean(scaled))
    return mean if len(values) == 1 else f"{mean} ± {form.format(statistics.stdev(scaled))}"


def run_comparison(settings: ComparisonSettings) -> int:
    """Run what is not done and write the tables of what is; the number of failed stages."""
    runs = list_compared_runs(settings)
    figures, failed = make_figures(
        # an arm that is not trained has one run for both budgets
        list({run.judged.key: run.judged for run in runs}.values()),
        Path(settings.figures_file),
        settings.stages_only or list(STAGE_VERSIONS),
        EvidenceSettings(workers=settings.workers).num_lanes,
    )
    # the page keeps the rows of what was not asked for this time
    everything = replace(settings, arms=None, models=None, seeds=None, budgets=None)
    comparison = read_comparison(settings)
    titles = {"images": f"{comparison.images:,} images each", "seconds": f"{comparison.seconds:g} seconds each"}
    parts = []
    drawn = {"images drawn": float(comparison.images)}
    for budget in BUDGETS:
        rows = {run.judged.key: run for run in [*list_compared_runs(everything), *runs] if run.budget == budget}
        for model in MODELS:
            own = [run for run in rows.values() if run.arm.model == model and run.judged.key in figures]
            if any(run.arm.trainer is not None for run in own):
                shown = {run.judged.key: figures[run.judged.key] for run in own}
                if budget == "images":
                    shown = {run.judged.key: (drawn if run.arm.trainer else {}) | shown[run.judged.key] for run in own}
                parts.append(f"## `{model}`, {titles[budget]}\n\n{comparison_table(own, shown)}")
    print("\n\n".join([*parts, f"tables: {settings.page}"]))
    about = _ABOUT.format(images=comparison.images, seconds=comparison.seconds)
    write_marked_part(Path(settings.page), MARKS, "\n\n".join([about, *parts]), heading="Comparison of trainers")
    for stage in failed:
        say_error(f"{stage.kind} {stage.name} failed, see {stage.folder / 'log.txt'}")
    return len(failed)


_ABOUT = (
    "Every training is given the same rewards, and draws {images:,} images or takes {seconds:g} seconds. Rewards, "
    "diversity (mean distance of a class's images in CLIP's features), the share recognised and the share on the "
    "class's own background are those "
    "of fresh images of its LoRA. Seconds are those of one core, model loading counted in, held-out evaluations off. "
    "The gain a minute is that of the weighted sum of the rewards over the untuned model of the same seed, by these "
    "seconds. "
    "Means and standard deviations over seeds; `python -m benchmarks.trainer_comparison` makes what is missing and "
    "writes this page, `benchmarks/trainer_comparison.yaml` says what each arm trains with, and figures of single "
    "runs are in `trainer_comparison.json`."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; 2 for a bad setting, 1 when a stage failed, 130 after an interrupt."""

    def body(argv: Sequence[str]) -> int:
        about = (__doc__ or "").partition("\n")[0]
        prog = "python -m benchmarks.trainer_comparison"
        return 1 if run_comparison(parse_settings(ComparisonSettings, argv, prog=prog, description=about)) else 0

    return run_command(body, argv)


if __name__ == "__main__":
    sys.exit(main())

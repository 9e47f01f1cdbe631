"""The search for a reward of variety that holds in every seed, on validation seeds and scenes alone.

    python -m benchmarks.variety_search                     # goes on from what is there
    python -m benchmarks.variety_search --arms "300 updates, weight 0.7, across 0.75" --seeds 1000

``variety_search.yaml`` says what each arm changes. Every stage is one of :mod:`benchmarks.evidence` and is kept under
a hash of its settings, so arms that train alike share the training, and the command can be stopped and started again.
The figures of a run that ended are kept in a file, too, under the same hash: elsewhere, without the stages' folders,
such a run is not made again.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.evidence.command import CONFIGS, DTYPES, EvidenceSettings, list_runs
from benchmarks.evidence.kept_figures import make_figures, read_figures
from benchmarks.evidence.stages import CAPTIONED_ARM, STAGE_VERSIONS, Run
from ubgen_pipeline.commands.console import say_error
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.files.whole_files import write_whole_text

ARMS_FILE = Path(__file__).with_suffix(".yaml")
# (key of the figure, heading, printed as percent)
COLUMNS = (
    ("transfer novel silhouettes", "transfer, 1,000", True),
    ("transfer novel silhouettes 10%", "100 images", True),
    ("accuracy", "accuracy", True),
    ("texture inclination", "inclination", True),
    ("background gap", "gap", True),
    ("class accuracy", "recognised", True),
    ("own background", "own background", True),
    ("background entropy", "background, bits", False),
    ("texture entropy", "texture, bits", False),
    ("hue entropy", "hue, bits", False),
)


class SearchArm(NamedTuple):
    """What is trained: ``changes`` are settings of train_ubgen.py; ``lora_step`` takes the LoRA after so many.

    ``begins`` names the arm of the evidence that says where it begins: ``ubgen`` at the untuned model,
    ``distilled_logdet`` at a LoRA that is distilled from prompted images. ``captioned`` begins at the untuned model,
    with captions and settings of its own in place of those that are common to the others; of its images those are kept
    of whose class the mini CLIP is sure with ``min_probability``, or those that it takes for their class, without one.
    """

    name: str
    begins: str
    changes: Mapping[str, Any]
    lora_step: int | None
    seeds: Sequence[int]
    min_probability: float | None


class SearchRun(NamedTuple):
    """An arm with one seed, in the precision ``dtype``."""

    arm: SearchArm
    run: Run
    dtype: str


@dataclass(frozen=True)
class SearchSettings:
    """Settings of the search."""

    output_dir: str = field_help("folder of every stage", "variety_search")
    arms_file: str = field_help("YAML file of the arms", str(ARMS_FILE))
    arms: list[str] | None = field_help("names of arms; all of the file, if not given", None)
    seeds: list[int] | None = field_help("validation seeds; those of the file, if not given", None)
    page: str = field_help("file of the table", "results/variety_search.md")
    figures_file: str = field_help("file of the figures of all runs that ended", "results/variety_search.json")
    dtype: str = field_help(
        "precision of tuning and drawing; bfloat16 is float32 on a CPU without instructions for it, and may be slower"
        " where there are some",
        "bfloat16",
    )
    workers: int | None = field_help("stages at the same time; as many as there are cores, if not given", None)
    stages_only: list[str] | None = field(
        default=None, metadata={"help": f"kinds of stages to run, of {', '.join(STAGE_VERSIONS)}"}
    )


def read_arms(settings: SearchSettings) -> list[SearchArm]:
    """The arms that are asked for.

    Raises:
        ValueError: a file that cannot be read, an arm without a name or with one given twice, or one asked for that
            is not there.
    """
    try:
        read = yaml.safe_load(Path(settings.arms_file).read_text(encoding="utf-8"))
        found = [
            SearchArm(
                str(arm["name"]),
                (begins := str(arm.get("begins", "ubgen"))),
                ({} if begins == CAPTIONED_ARM else dict(read.get("common") or {})) | dict(arm.get("set") or {}),
                arm.get("lora_step"),
                settings.seeds or arm.get("seeds") or read["seeds"],
                arm.get("min_probability"),
            )
            for arm in read["arms"]
        ]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"arms_file {settings.arms_file!r} could not be read ({error!r}); write seeds, and arms with a name each, "
            f"as {ARMS_FILE.name} has them."
        ) from error
    names = [arm.name for arm in found]
    if len({*names}) != len(names):
        raise ValueError(f"arms_file {settings.arms_file!r} has the arms {names}; name each once.")
    unknown = [name for name in settings.arms or () if name not in names]
    if unknown:
        raise ValueError(f"arms holds {unknown[0]!r}; {settings.arms_file} has {', '.join(names)}.")
    return [arm for arm in found if settings.arms is None or arm.name in settings.arms]


def list_search_runs(settings: SearchSettings, dtype: str | None = None) -> list[SearchRun]:
    """Every arm and seed, an arm's seeds one after the other.

    Args:
        settings: of the search.
        dtype: precision of tuning and drawing, as another machine has it; that of the settings, if not given.

    Raises:
        ValueError: a setting that cannot work, or a seed of the test split.
    """
    runs = []
    for arm in read_arms(settings):
        changes = [f"{name}={json.dumps(value)}" for name, value in arm.changes.items()]
        asked = EvidenceSettings(
            output_dir=settings.output_dir,
            arms=[arm.begins],
            seeds=list(arm.seeds),
            split="validation",
            training_config=str(CONFIGS / "mini_evidence.yaml"),
            set=changes,
            logdet_config=str(CONFIGS / "mini_evidence.yaml"),
            set_logdet=changes,
            set_captioned=changes,
            lora_step=arm.lora_step,
            min_probability=arm.min_probability,
            dtype=settings.dtype,
            workers=settings.workers,
        )
        precision = dtype or asked.image_dtype
        runs += [SearchRun(arm, run, precision) for run in list_runs(asked, precision)]
    return runs


def search_table(runs: Sequence[SearchRun], figures_of: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for every run that has figures, in Markdown."""
    lines = [f"| arm | seed | precision | {' | '.join(heading for _, heading, _ in COLUMNS)} |"]
    lines.append(f"|---|---:|---|{'---:|' * len(COLUMNS)}")
    for arm, run, dtype in runs:
        figures = figures_of.get(run.measures.key)
        if figures is not None:
            values = [_figure_text(figures.get(key), is_share) for key, _, is_share in COLUMNS]
            lines.append(f"| {arm.name} | {run.seed} | {dtype} | {' | '.join(values)} |")
    return "\n".join(lines)


def _figure_text(value: float | None, is_share: bool) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if is_share else f"{value:.2f}"


def run_search(settings: SearchSettings) -> int:
    """Run what is not done and write the table of what is; the number of failed stages."""
    known = read_figures(Path(settings.figures_file))
    # what another machine made in the other precision is not made again
    made = {
        (run.arm.name, run.run.seed)
        for dtype in DTYPES
        for run in list_search_runs(settings, dtype)
        if run.run.measures.key in known
    }
    runs = [run for run in list_search_runs(settings) if (run.arm.name, run.run.seed) not in made]
    figures, failed = make_figures(
        [found.run.measures for found in runs],
        Path(settings.figures_file),
        settings.stages_only or list(STAGE_VERSIONS),
        EvidenceSettings(workers=settings.workers).num_lanes,
    )
    # the page keeps the rows of what was not asked for this time
    all_asked = [settings, replace(settings, arms=None, seeds=None)]
    listed = [found for asked in all_asked for dtype in DTYPES for found in list_search_runs(asked, dtype)]
    rows = {found.run.measures.key: found for found in listed}
    table = search_table(sorted(rows.values(), key=lambda found: (found.arm.name, found.run.seed)), figures)
    print(f"\n{table}\n\ntable: {settings.page}")
    write_whole_text(Path(settings.page), f"# Search for variety\n\n{_ABOUT}\n\n{table}\n")
    for stage in failed:
        say_error(f"{stage.kind} {stage.name} failed, see {stage.folder / 'log.txt'}")
    return len(failed)


_ABOUT = (
    "One row per arm and seed, on the validation split: `python -m benchmarks.variety_search` makes what is missing "
    "and writes this page; figures that were made are in `variety_search.json`. "
    "`benchmarks/variety_search.yaml` says what each arm changes."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; 2 for a bad setting, 1 when a stage failed, 130 after an interrupt."""

    def body(argv: Sequence[str]) -> int:
        about = (__doc__ or "").partition("\n")[0]
        asked = parse_settings(SearchSettings, argv, prog="python -m benchmarks.variety_search", description=about)
        return 1 if run_search(asked) else 0

    return run_command(body, argv)


if __name__ == "__main__":
    sys.exit(main())

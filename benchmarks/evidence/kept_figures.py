"""Figures of runs that ended, kept in a file under the hash of their last stage.

Elsewhere, without the stages' folders, such a run is not made again, so that a table adds up over machines.
"""

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.lanes import Lanes
from benchmarks.evidence.stages import Stage, in_order
from ubgen_pipeline.files.whole_files import write_whole_text

Figures = dict[str, dict[str, Any]]


def read_figures(file: Path) -> Figures:
    """What :func:`make_figures` wrote; nothing where there is no file.

    Raises:
        ValueError: the file holds something else.
    """
    if not file.is_file():
        return {}
    try:
        return {str(key): dict(figures) for key, figures in json.loads(file.read_text(encoding="utf-8")).items()}
    except (UnicodeDecodeError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"figures_file {str(file)!r} could not be read ({error!r}); move it away.") from error


def stage_record(stage: Stage) -> dict[str, Any]:
    """What a stage that is done left behind: its seconds and its figures."""
    return json.loads((stage.folder / "done.json").read_text(encoding="utf-8"))


def stage_figures(stage: Stage) -> dict[str, Any]:
    """The figures of a stage that is done."""
    return stage_record(stage)["figures"]


def gather_figures(
    last_stages: Sequence[Stage],
    known: Mapping[str, dict[str, Any]],
    figures_of: Callable[[Stage], dict[str, Any]] = stage_figures,
) -> Figures:
    """``known`` figures and those of the ``last_stages`` that are done, by their hashes."""
    return dict(known) | {stage.key: figures_of(stage) for stage in last_stages if stage.is_done}


def make_figures(
    last_stages: Sequence[Stage],
    file: Path,
    kinds: Sequence[str],
    num_lanes: int,
    num_threads: int = 1,
    figures_of: Callable[[Stage], dict[str, Any]] = stage_figures,
) -> tuple[Figures, list[Stage]]:
    """Run what ``last_stages`` lack, and keep their figures in ``file``.

    Args:
        last_stages: of the runs; one whose figures are known is left as it is.
        kinds: of the stages that may run.
        num_lanes: stages at the same time.
        num_threads: of a stage.
        figures_of: what is kept of a last stage that is done.

    Returns:
        All figures by the hashes of last stages, and the stages that failed.

    Raises:
        ValueError: ``file`` holds something else.
    """
    known = read_figures(file)
    unknown = [last for last in last_stages if last.key not in known]
    if len(unknown) < len(last_stages):
        num_known = len(last_stages) - len(unknown)
        print(f"{num_known} of {len(last_stages)} runs are in {file}; move it away to make them again")
    missing = [stage for last in unknown for stage in in_order(last)]
    stages = {stage.key: stage for stage in missing if stage.kind in kinds}
    # SIGTERM stops the stages, too, as an interrupt at the keyboard does
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    failed = Lanes(num_lanes, num_threads).run(list(stages.values()))
    figures = gather_figures(unknown, known, figures_of)
    if figures != known:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole_text(file, json.dumps(figures, indent=1, sort_keys=True) + "\n")
    return figures, failed

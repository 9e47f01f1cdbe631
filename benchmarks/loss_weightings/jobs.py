"""What the comparison of loss weightings consists of: its settings, the trainings, and the figures of each."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.loss_weightings.training import Run, TrainingSettings
from ubgen_pipeline.commands.settings_parser import field_help
from ubgen_pipeline.models.loading import SCHEDULERS
from ubgen_training.denoising.denoising_loss import CLEAN_WEIGHTS, check_names

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class WeightingSettings:
    """Settings of the comparison."""

    work_dir: str = field_help("folder of everything that a later run takes up", "build/loss_weightings")
    weightings: list[str] = field(
        default_factory=lambda: list(CLEAN_WEIGHTS), metadata={"help": "weightings to train with"}
    )
    num_seeds: int = field_help("trainings of each weighting", 2)
    compared: list[str] = field(
        default_factory=lambda: ["constant", "debias"],
        metadata={"help": "weightings whose last weights sample with every scheduler"},
    )
    other_targets: list[str] = field(
        default_factory=lambda: ["velocity"],
        metadata={"help": "targets that `compared` is trained on too, with the first seed"},
    )
    checkpoints: list[int] = field(
        default_factory=lambda: [150, 300, 600, 1200],
        metadata={"help": "updates after which a run is scored; it ends at the last"},
    )
    batch_size: int = field_help("scenes of an update", 16)
    learning_rate: float = field_help("of AdamW, constant after a short warm-up", 1.5e-3)
    width: int = field_help("channels of the UNet's first level", 32)
    num_scenes: int = field_help("scenes to train on", 10_000)
    bias: float = field_help("how often a scene has its class's own background and texture", 0.95)
    num_reference: int = field_help("other scenes of that world that images are compared with", 2000)
    num_images: int = field_help("images drawn for each figure", 300)
    sampler: str = field_help("scheduler of the comparison over updates", "dpm++")
    num_inference_steps: int = field_help("its steps", 15)
    samplers: list[str] = field(
        default_factory=lambda: ["ddpm", "ddim", "dpm++", "unipc"],
        metadata={"help": "schedulers of the comparison over steps"},
    )
    sampler_steps: list[int] = field(
        default_factory=lambda: [5, 10, 20, 50, 100], metadata={"help": "its numbers of steps"}
    )
    workers: int = field_help("processes of one thread each", 2)
    json: str | None = field_help("file for all figures; default: results.json in the work folder", None)
    page: str | None = field_help("Markdown page whose section between the markers is written anew", None)
    only_report: bool = field_help("train and draw nothing; write the page of what is there", False)
    images: str = field_help("folder of the page's two plots", str(ROOT / "results" / "images"))

    def __post_init__(self) -> None:
        for name in ("weightings", "samplers", "sampler_steps"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give one or more.")
        for weighting in (*self.weightings, *self.compared):
            check_names(weighting, "noise")
        for target in self.other_targets:
            check_names("constant", target)
        for name in {self.sampler, *self.samplers} - set(SCHEDULERS):
            raise ValueError(f"samplers holds {name!r}; choose among {', '.join(SCHEDULERS)}.")
        if missing := sorted(set(self.compared) - set(self.weightings)):
            raise ValueError(f"compared holds {missing[0]!r}, which weightings lacks; add it there.")
        steps = self.checkpoints
        if not steps or steps[0] < 1 or any(later <= earlier for earlier, later in itertools.pairwise(steps)):
            raise ValueError(f"checkpoints is {steps}; give rising numbers of updates, 1 or more.")
        least_values = {"num_seeds": 1, "batch_size": 1, "workers": 1, "num_scenes": 1, "num_inference_steps": 1}
        # precision and recall look at each image's third neighbour
        for name, least in (least_values | {"num_images": 4, "num_reference": 4}).items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give {least} or more.")
        if not self.learning_rate > 0 or not 0 <= self.bias <= 1:
            raise ValueError(
                f"learning_rate is {self.learning_rate} and bias {self.bias}; give one above 0, and one in [0, 1]."
            )
        if self.width < 16 or self.width % 16:
            raise ValueError(f"width is {self.width}; give a multiple of 16.")

    @property
    def training(self) -> TrainingSettings:
        return TrainingSettings(tuple(self.checkpoints), self.batch_size, self.learning_rate, self.width)

    @property
    def kept(self) -> dict[str, Any]:
        """What the figures in a work folder depend on."""
        names = ("checkpoints", "batch_size", "learning_rate", "width", "num_scenes", "bias", "num_reference")
        return {name: getattr(self, name) for name in (*names, "num_images", "sampler", "num_inference_steps")}

    @property
    def shown(self) -> dict[str, Any]:
        """Everything but files and processes."""
        names = ("weightings", "compared", "samplers", "sampler_steps")
        return self.kept | {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Point:
    """One figure's images: a run's weights after ``num_updates``, a scheduler and its number of steps."""

    run: Run
    num_updates: int
    sampler: str
    num_steps: int

    def file(self, work_dir: Path) -> Path:
        """Where its figures are kept."""
        return work_dir / self.run.name / f"fidelity-{self.num_updates}-{self.sampler}-{self.num_steps}.json"


Job = tuple[Run, list[Point]]


def list_jobs(settings: WeightingSettings) -> list[list[Job]]:
    """Jobs in groups that run one after the other, the most important first; the jobs of a group are independent.

    First the runs that sampling needs; then the other weightings of the first seed, and sampling; then the other
    seeds, seed by seed, and the other targets.
    """
    sampled = [Run(weighting, "noise", 0) for weighting in settings.compared]
    first = [Run(weighting, "noise", 0) for weighting in settings.weightings]
    later = [
        Run(weighting, "noise", seed) for seed in range(1, settings.num_seeds) for weighting in settings.weightings
    ]
    later += [Run(weighting, target, 0) for target in settings.other_targets for weighting in settings.compared]
    sampling = [
        (run, [Point(run, settings.checkpoints[-1], sampler, number) for number in settings.sampler_steps])
        for sampler in settings.samplers
        for run in sampled
    ]
    others = [_training_job(settings, run) for run in first if run not in sampled]
    return [
        [_training_job(settings, run) for run in sampled],
        [*others, *sampling],
        [_training_job(settings, run) for run in later],
    ]


def _training_job(settings: WeightingSettings, run: Run) -> Job:
    usual = (settings.sampler, settings.num_inference_steps)
    return run, [Point(run, num_updates, *usual) for num_updates in settings.checkpoints]

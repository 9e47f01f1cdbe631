"""Loss weightings side by side on the mini world: fidelity against training updates, and against sampling steps.

    python benchmarks/loss_weightings.py --work-dir build/loss_weightings --workers 2

The comparison that "Unmasking Bias in Diffusion Model Training" makes, at the size of two CPU cores. For every weighting
and seed a small denoiser is trained from random weights on the noise target; its averaged weights are scored at every
checkpoint. Then the last weights of some runs sample with every scheduler and number of steps. Each figure is kept in
the work folder as it is found: stopped and started again, with more seeds too, the command does only what is missing.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from generated_fidelity import compare, floors, read_images, read_reference, sample, write_json
from weighted_denoisers import Run, TrainingSettings, load_average, planned_runs, prepare_world, train_run
from weighting_report import Results, plot_results, update_page

from ubgen_pipeline.mini.scenes import CLASS_NAMES
from ubgen_pipeline.models import SCHEDULERS, load_pipeline
from ubgen_pipeline.settings_parser import field_help, parse_settings, run_command
from ubgen_training.denoising_loss import CLEAN_WEIGHTS, check_names

ROOT = Path(__file__).resolve().parents[1]


def _list_help(text: str, *default: Any) -> Any:
    return field(default_factory=lambda: list(default), metadata={"help": text})


@dataclass(frozen=True)
class WeightingSettings:
    """Settings of the comparison."""

    work_dir: str = field_help("folder of everything that a later run takes up", "build/loss_weightings")
    weightings: list[str] = _list_help("weightings to train with", *CLEAN_WEIGHTS)
    num_seeds: int = field_help("trainings of each weighting", 2)
    compared: list[str] = _list_help("weightings whose last weights sample with every scheduler", "constant", "debias")
    other_targets: list[str] = _list_help("targets that `compared` is trained on too, with the first seed", "velocity")
    checkpoints: list[int] = _list_help(
        "updates after which a run is scored; it ends at the last", 150, 300, 600, 1200
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
    samplers: list[str] = _list_help("schedulers of the comparison over steps", "ddpm", "ddim", "dpm++", "unipc")
    sampler_steps: list[int] = _list_help("its numbers of steps", 5, 10, 20, 50, 100)
    workers: int = field_help("processes of one thread each", 2)
    json: str | None = field_help("file for all figures; default: results.json in the work folder", None)
    page: str | None = field_help("Markdown page whose section between the markers is written anew", None)
    images: str = field_help("folder of the page's two plots", str(ROOT / "docs" / "images"))

    def __post_init__(self) -> None:
        for weighting in (*self.weightings, *self.compared):
            check_names(weighting, "noise")
        for target in self.other_targets:
            check_names("constant", target)
        for name in {self.sampler, *self.samplers} - set(SCHEDULERS):
            raise ValueError(f"samplers holds {name!r}; choose among {', '.join(SCHEDULERS)}.")
        if missing := sorted(set(self.compared) - set(self.weightings)):
            raise ValueError(f"compared holds {missing[0]!r}, which weightings lacks; add it there.")
        steps = self.checkpoints
        if not steps or steps[0] < 1 or any(later <= earlier for earlier, later in zip(steps, steps[1:])):
            raise ValueError(f"checkpoints is {steps}; give rising numbers of updates, 1 or more.")
        for name, least in (("num_seeds", 1), ("batch_size", 1), ("workers", 1), ("num_images", 4)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give {least} or more.")
        if not self.learning_rate > 0 or not 0 <= self.bias <= 1:
            raise ValueError(f"learning_rate is {self.learning_rate} and bias {self.bias}; give > 0 and in [0, 1].")

    @property
    def training(self) -> TrainingSettings:
        return TrainingSettings(tuple(self.checkpoints), self.batch_size, self.learning_rate, self.width)

    @property
    def kept(self) -> dict[str, Any]:
        """What the figures in a work folder depend on."""
        names = ("checkpoints", "batch_size", "learning_rate", "width", "num_scenes", "bias", "num_reference")
        return {name: getattr(self, name) for name in (*names, "num_images", "sampler", "num_inference_steps")}


@dataclass(frozen=True)
class Point:
    """One figure's images: a run's weights after ``num_updates``, a scheduler and its number of steps."""

    run: Run
    num_updates: int
    sampler: str
    num_steps: int

    def file(self, work_dir: Path) -> Path:
        return work_dir / self.run.name / f"fidelity-{self.num_updates}-{self.sampler}-{self.num_steps}.json"


def training_points(settings: WeightingSettings, run: Run) -> list[Point]:
    return [Point(run, step, settings.sampler, settings.num_inference_steps) for step in settings.checkpoints]


Job = tuple[Run, list[Point]]


def work(settings: WeightingSettings, run: Run, points: Sequence[Point]) -> None:
    """Train a run, unless it is, and score the points that are not."""
    work_dir = Path(settings.work_dir)
    missing = [point for point in points if not point.file(work_dir).exists()]
    if not missing:
        return
    torch.set_num_threads(1)
    world = prepare_world(work_dir / "world.safetensors", settings.num_scenes, settings.bias, 1)
    train_run(run, world, settings.training, work_dir / run.name)
    reference = read_reference(work_dir / "reference.safetensors", settings.num_reference, settings.bias, 1)
    vae = load_pipeline("mini").vae
    labels = [row % len(CLASS_NAMES) for row in range(settings.num_images)]
    for point in missing:
        started = time.monotonic()
        images = sample(
            load_average(work_dir / run.name, point.num_updates, settings.width),
            vae,
            world.prompt_embeds,
            target=run.target,
            sampler=point.sampler,
            num_steps=point.num_steps,
            num_images=settings.num_images,
        )
        figures = compare(read_images(images), labels, reference)
        write_json(figures, point.file(work_dir))
        seconds = time.monotonic() - started
        shown = f"FID {figures['fid']:.1f}, class accuracy {figures['class_accuracy']:.3f}, {seconds:.0f} s"
        print(f"{run.name}: {point.num_updates} updates, {point.sampler} {point.num_steps} steps: {shown}", flush=True)


def planned_jobs(settings: WeightingSettings) -> list[list[Job]]:
    """Jobs in groups that follow one another, what matters most first; the jobs of a group are independent."""
    runs = planned_runs(settings.weightings, settings.num_seeds, settings.compared, settings.other_targets)
    first = [run for run in runs if run.seed == 0 and run.target == "noise"]
    sampled = [run for run in first if run.weighting in settings.compared]
    sampling = [
        (run, [Point(run, settings.checkpoints[-1], sampler, number) for number in settings.sampler_steps])
        for sampler in settings.samplers
        for run in sampled
    ]
    others = [(run, training_points(settings, run)) for run in first if run not in sampled]
    later = [(run, training_points(settings, run)) for run in runs if run not in first]
    return [[(run, training_points(settings, run)) for run in sampled], [*others, *sampling], later]


def collect(settings: WeightingSettings) -> Results:
    """Every figure that the work folder holds so far."""
    work_dir = Path(settings.work_dir)
    figures = []
    for group in planned_jobs(settings):
        for run, points in group:
            for point in points:
                if point.file(work_dir).exists():
                    place = dataclasses.asdict(run) | dataclasses.asdict(point)
                    place.pop("run")
                    figures.append(place | json.loads(point.file(work_dir).read_text(encoding="utf-8")))
    unique = [one for number, one in enumerate(figures) if one not in figures[:number]]
    return Results(settings.kept, json.loads((work_dir / "floors.json").read_text(encoding="utf-8")), unique)


def check_work_dir(settings: WeightingSettings) -> None:
    """Raise ``ValueError`` if the folder holds figures of other settings; else note these."""
    file = Path(settings.work_dir) / "settings.json"
    kept = json.loads(json.dumps(settings.kept))
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        for name, value in kept.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{name} is {value}, but work_dir {settings.work_dir} holds figures made with {before.get(name)}; "
                    "give that, or another work_dir."
                )
    else:
        write_json(kept, file)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(WeightingSettings, argv, description=(__doc__ or "").split("\n")[0])
    check_work_dir(settings)
    work_dir = Path(settings.work_dir)
    prepare_world(work_dir / "world.safetensors", settings.num_scenes, settings.bias, settings.workers)
    reference = read_reference(
        work_dir / "reference.safetensors", settings.num_reference, settings.bias, settings.workers
    )
    if not (work_dir / "floors.json").exists():
        found = floors(load_pipeline("mini").vae, reference, settings.num_images, settings.bias)
        write_json(found, work_dir / "floors.json")
    groups = planned_jobs(settings)
    _run_groups(settings, groups, on_done=lambda: _report(settings))
    _report(settings)
    print(f"figures in {_json_file(settings)}")


def _run_groups(settings: WeightingSettings, groups: Sequence[Sequence[Job]], on_done: Callable[[], None]) -> None:
    started, num_done, num_jobs = time.monotonic(), 0, sum(map(len, groups))
    # fork would copy torch's thread pool in a locked state
    with ProcessPoolExecutor(settings.workers, mp_context=get_context("spawn")) as pool:
        for group in groups:
            for future in as_completed([pool.submit(work, settings, run, points) for run, points in group]):
                future.result()
                num_done += 1
                spent = time.monotonic() - started
                left = spent / num_done * (num_jobs - num_done)
                print(f"job {num_done} of {num_jobs} done in {spent:.0f} s, about {left:.0f} s left", flush=True)
                on_done()


def _report(settings: WeightingSettings) -> None:
    results = collect(settings)
    write_json(dataclasses.asdict(results), _json_file(settings))
    if settings.page is not None:
        plots = plot_results(results, Path(settings.images))
        update_page(Path(settings.page), results, plots)


def _json_file(settings: WeightingSettings) -> Path:
    return Path(settings.json or Path(settings.work_dir) / "results.json")


if __name__ == "__main__":
    sys.exit(main())

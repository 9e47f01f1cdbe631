"""Loss weightings side by side on the mini world: fidelity against training updates, and against sampling steps.

    python -m benchmarks.loss_weightings --work-dir build/loss_weightings --workers 2

The comparison that "Unmasking Bias in Diffusion Model Training" makes, sized for two CPU cores. For each weighting
and seed a small denoiser is trained from random weights on the noise target; its averaged weights are scored at every
checkpoint. Then the last weights of some runs sample with every scheduler and number of steps. Each figure is kept in
the work folder as it is found: stopped and started again, with more seeds too, the command does only what is missing.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.loss_weightings.fidelity import compare, floors, read_images, read_reference, sample, write_json
from benchmarks.loss_weightings.jobs import Job, WeightingSettings, list_jobs
from benchmarks.loss_weightings.report import Results, plot_results, update_page
from benchmarks.loss_weightings.training import load_average, prepare_world, train_run
from ubgen_pipeline.commands.settings_parser import parse_settings, run_command
from ubgen_pipeline.mini.scenes import CLASS_NAMES
from ubgen_pipeline.models.loading import load_pipeline


def work(settings: WeightingSettings, job: Job) -> None:
    """Train a run, unless it is, and score the points that are not."""
    run, points = job
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


def collect(settings: WeightingSettings) -> Results:
    """Every figure that the work folder holds so far."""
    work_dir, rows = Path(settings.work_dir), []
    points = [point for group in list_jobs(settings) for _, points in group for point in points]
    # one point may be asked for by both comparisons
    for point in dict.fromkeys(points):
        if point.file(work_dir).exists():
            place = dataclasses.asdict(point)
            place |= place.pop("run")
            rows.append(place | json.loads(point.file(work_dir).read_text(encoding="utf-8")))
    return Results(settings.shown, json.loads((work_dir / "floors.json").read_text(encoding="utf-8")), rows)


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
    about = (__doc__ or "").split("\n")[0]
    settings = parse_settings(WeightingSettings, argv, prog="python -m benchmarks.loss_weightings", description=about)
    check_work_dir(settings)
    work_dir = Path(settings.work_dir)
    prepare_world(work_dir / "world.safetensors", settings.num_scenes, settings.bias, settings.workers)
    reference = read_reference(
        work_dir / "reference.safetensors", settings.num_reference, settings.bias, settings.workers
    )
    if not (work_dir / "floors.json").exists():
        found = floors(load_pipeline("mini").vae, reference, settings.num_images, settings.bias)
        write_json(found, work_dir / "floors.json")
    if not settings.only_report:
        _do_jobs(settings, list_jobs(settings))
    _report(settings)
    print(f"figures in {_json_file(settings)}")


def _do_jobs(settings: WeightingSettings, groups: Sequence[Sequence[Job]]) -> None:
    started, num_done, num_jobs = time.monotonic(), 0, sum(map(len, groups))
    for group in groups:
        for _ in _finished(settings, group):
            num_done += 1
            spent = time.monotonic() - started
            left = spent / num_done * (num_jobs - num_done)
            print(f"job {num_done} of {num_jobs} done in {spent:.0f} s, about {left:.0f} s left", flush=True)
            _report(settings)


def _finished(settings: WeightingSettings, jobs: Sequence[Job]) -> Iterator[None]:
    """Do the jobs; yields as each is done."""
    if settings.workers == 1:
        yield from (work(settings, job) for job in jobs)
        return
    # fork would copy torch's thread pool in a locked state
    with ProcessPoolExecutor(settings.workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(work, settings, job) for job in jobs]):
            yield future.result()


def _report(settings: WeightingSettings) -> None:
    results = collect(settings)
    write_json(dataclasses.asdict(results), _json_file(settings))
    if settings.page is not None:
        plots = plot_results(results, Path(settings.images))
        update_page(Path(settings.page), results, plots)


def _json_file(settings: WeightingSettings) -> Path:
    return Path(settings.json or Path(settings.work_dir) / "results.json")

"""Generate a labelled image dataset from class names, as parquet shards that ``datasets.load_dataset`` reads.

``generate_dataset`` is the Python call, ``main`` the body of ``ubgen generate``. Sample i belongs to class
i mod num_classes, so any prefix of a dataset is balanced. Under ``accelerate launch`` rank r makes shards
r, r + world size, …; a shard's content does not depend on who made it.
"""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..commands.console import say
from ..commands.settings_parser import parse_settings, run_command
from ..commands.stopwatch import Stopwatch, stage, timed_run
from ..files.places import is_address
from ..files.whole_files import write_whole_text
from ..prompts.class_checks import writing_warnings
from ..prompts.class_file import ClassFile, read_class_file
from ..prompts.foreign_syntax import foreign_syntax
from ..prompts.template_files import PromptFile
from ..samples.prompt_samples import read_prompt_file
from ..samples.sample import Samples
from .settings import GenerateSettings

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from .dataset_run import DatasetRun

# The number of torch's threads and the order of its attention kernels, which pixels depend on, hold for the process.
# A run draws in as many threads as pay.
_ONE_RUN = threading.RLock()


def generate_dataset(
    class_names: Sequence[str] | str | Path | None, output_dir: str | Path | None = None, **settings: Any
) -> "Dataset | IterableDataset":
    """Generate, or finish generating, the dataset in ``output_dir`` and return it as a ``datasets.Dataset``.

    With ``hub_dataset_id`` and without ``keep_local`` it is not here any more: the streaming one on the Hub is
    returned. Several threads may call it: one dataset is drawn after the other.

    Args:
        class_names: class names, a class file, or the name of a built-in list; None takes the source's classes.
        output_dir: the dataset's folder, or an address such as ``s3://bucket/folder``; may be left out with
            ``hub_dataset_id``.
        **settings: other fields of :class:`GenerateSettings`.

    Raises:
        ValueError: a setting out of range, an unknown model, a LoRA that does not fit, or a folder that holds
            something else or a dataset made with other settings.
        OSError: the folder cannot be written, or the disk is full; what was committed stays and is resumed.
    """
    from datasets import load_dataset

    from ..call_arguments import plain_value
    from ..dataset.reader import open_rows

    given: dict[str, Any] = {}
    class_file, prompt_file = None, None
    if isinstance(class_names, (str, Path)):
        given["classes"], class_file = str(class_names), read_class_file(str(class_names))
    elif class_names is not None:
        given["class_names"] = list(plain_value(class_names))
    settings = {name: plain_value(value) for name, value in settings.items()}
    if class_file is not None:
        prompt_file = read_prompt_file(class_file, settings.get("task"))
    defaults = prompt_file.defaults(settings.get("model", "mini")) if prompt_file else {}
    if str(output_dir) == "":
        raise ValueError("output_dir is ''; give a folder, '.' for the one you are in.")
    if output_dir is not None:
        given["output_dir"] = str(output_dir)
    asked = GenerateSettings(**{**defaults, **settings, **given})
    write_dataset(asked, _samples_of(asked, class_file, prompt_file))
    if asked.hub_dataset_id is not None and not asked.keep_local:
        dataset = load_dataset(asked.hub_dataset_id, split="train", streaming=True)
    elif is_address(asked.folder()):
        dataset = open_rows(str(asked.folder()), argument="output_dir")
    else:
        dataset = load_dataset(str(asked.folder()), split="train")
    return dataset  # pyright: ignore[reportReturnType]


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen generate``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings, samples = _settings_and_samples(argv)
    if not settings.dry_run:
        run = write_dataset(settings, samples)
        if run.rank == 0 and settings.hub_dataset_id is None:
            print(run.table())
        return
    for sample in map(samples.sample, range(len(samples))):
        line = {
            "index": sample.index,
            "class_name": sample.prompt.name,
            "label": sample.prompt.label,
            "prompt": sample.prompt.prompt,
            "seed": sample.seed,
            **samples.lineage(sample),
        }
        if sample.prompt.attributes:
            line["attributes"] = dict(sample.prompt.attributes)
        print(json.dumps(line))


def _settings_and_samples(argv: Sequence[str]) -> tuple[GenerateSettings, Samples]:
    """The settings from the command line, on top of what the class file says of them, and the samples."""
    parse = partial(parse_settings, GenerateSettings, argv, prog="ubgen generate", description=__doc__)
    settings = parse()
    class_file = None if settings.classes is None else read_class_file(settings.classes)
    prompt_file = None if class_file is None else read_prompt_file(class_file)
    if class_file is not None and prompt_file is not None:
        # what the file says depends on the task, and the command line decides the task before the file does
        task = None if prompt_file.task is None else parse(defaults={"task": prompt_file.task}).task
        prompt_file = read_prompt_file(class_file, task)
        settings = parse(defaults=prompt_file.defaults(settings.model) if prompt_file else None)
    return settings, _samples_of(settings, class_file, prompt_file)


def _samples_of(settings: GenerateSettings, class_file: ClassFile | None, prompt_file: PromptFile | None) -> Samples:
    """The samples; what of the class file and the source does not count is said."""
    if prompt_file is not None:
        for remark in prompt_file.remarks(settings.model, has_embeddings=bool(settings.embeddings)):
            say(f"{settings.classes}: {remark}")
    samples = settings.samples(class_file)
    for note in samples.notes:
        say(f"{settings.classes}: {note}")
    turns = set(samples.turns[: len(samples)])
    if absent := [item.name for label, item in enumerate(samples.classes) if label not in turns]:
        named = ", ".join(absent[:5]) + (" …" if len(absent) > 5 else "")
        say(f"of {len(absent)} of {len(samples.classes)} classes no image is drawn: {named}")
    prompts = samples.prompts()
    for warning in foreign_syntax([settings.negative_prompt or ""]) + foreign_syntax(item.prompt for item in prompts):
        say(warning)
    # a prompt may hold a synonym in place of the name
    drawn = {item.name for item in prompts if item.name in item.prompt}
    if odd := [item.name for item in samples.classes if item.name in drawn and writing_warnings(item.name)]:
        more = "" if len(odd) == 1 else f" ({len(odd) - 1} more are written oddly; `ubgen check-names` lists them)"
        say(f"class {odd[0]!r} {writing_warnings(odd[0])[0]}{more}")
    return samples


def write_dataset(settings: GenerateSettings, samples: Samples) -> "DatasetRun":
    """Check everything, then write the shards that are missing and that this process has to write; returns the run."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if settings.engine == "ray" and world_size > 1:
        raise ValueError(
            f"WORLD_SIZE is {world_size} with engine ray, whose one driver hands the shards out; leave accelerate"
            " launch out, or the engine."
        )
    if settings.profile is not None and not Path(settings.profile).expanduser().absolute().parent.is_dir():
        raise ValueError(
            f"profile is {settings.profile!r}, whose folder does not exist; make it, or give another file."
        )
    if not _ONE_RUN.acquire(blocking=False):
        say(f"{settings.folder()} waits for the dataset that another thread draws")
        _ONE_RUN.acquire()
    with _ended(settings.profile, rank) as watch:
        with stage("loading"):
            # torch, pyarrow and scipy come with it, which --help and a dry run need not wait for
            from .dataset_run import DatasetRun

            run = DatasetRun(settings, samples, rank, world_size)
        with run.shards.store.held(run.rank):
            if settings.engine == "ray":
                from .ray_engine import write_with_ray

                write_with_ray(run)
            else:
                with stage("loading"):
                    missing = run.missing()
                run.write(missing)
            run.finish(watch)
    return run


@contextmanager
def _ended(profile: str | None, rank: int) -> Iterator[Stopwatch]:
    """Times the run in the body; when it ends, however it does, others may begin, and the trace is written."""
    try:
        with timed_run(keeps_trace=profile is not None) as watch:
            try:
                yield watch
            finally:
                if profile is not None:
                    write_whole_text(Path(f"{profile}.{rank}" if rank else profile).expanduser(), watch.trace())
    finally:
        _ONE_RUN.release()

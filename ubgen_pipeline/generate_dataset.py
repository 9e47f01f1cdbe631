"""Generate a labelled image dataset from class names, as parquet shards that ``datasets.load_dataset`` reads.

``generate_dataset`` is the Python call, ``main`` the body of ``ubgen generate``. Sample i belongs to class
i mod num_classes, so any prefix of a dataset is balanced. Under ``accelerate launch`` rank r makes shards
r, r + world size, …; a shard's content does not depend on who made it.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .caption_prompts import ShownPrompt
from .class_prompts import label_names
from .dataset_facts import card, manifest
from .dataset_rows import check_prompts, dataset_features, dataset_rows, say
from .dataset_shards import DatasetShards
from .generate_settings import GenerateSettings
from .prompt_plan import read_prompt_file
from .settings_parser import parse_settings, run_command
from .source_plan import SourcePlan

if TYPE_CHECKING:
    from datasets import Dataset

    from .pipeline import UbGenPipeline


def generate_dataset(
    class_names: Sequence[str] | str | Path | None, output_dir: str | Path, **settings: Any
) -> "Dataset":
    """Generate, or finish generating, the dataset in ``output_dir`` and return it as a ``datasets.Dataset``.

    Args:
        class_names: class names, a class file, or the name of a built-in list; None takes the source's classes.
        output_dir: the dataset's folder.
        **settings: other fields of :class:`GenerateSettings`.

    Raises:
        ValueError: a setting out of range, an unknown model, a LoRA that does not fit, or a folder that holds
            something else or a dataset made with other settings.
        OSError: the folder cannot be written, or the disk is full; what was committed stays and is resumed.
    """
    from datasets import load_dataset

    given: dict[str, Any] = {}
    if isinstance(class_names, (str, Path)):
        given["classes"] = str(class_names)
    elif class_names is not None:
        given["class_names"] = list(class_names)
    file = read_prompt_file(class_names) if isinstance(class_names, (str, Path)) else None
    defaults = file.defaults(settings.get("model", "mini")) if file else {}
    write_dataset(GenerateSettings(**{**defaults, **settings, **given, "output_dir": str(output_dir)}))
    dataset = load_dataset(str(Path(output_dir).expanduser()), split="train")
    return dataset  # pyright: ignore[reportReturnType]


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen generate``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = _settings_from(argv)
    if settings.dry_run:
        plan = settings.plan()
        for sample in map(plan.sample, range(len(plan))):
            line = {
                "index": sample.index,
                "class_name": sample.prompt.name,
                "label": sample.prompt.label,
                "prompt": sample.prompt.prompt,
                "seed": sample.seed,
            }
            if isinstance(plan, SourcePlan):
                line["source_index"] = plan.source_index(sample.index)
            if sample.prompt.attributes:
                line["attributes"] = dict(sample.prompt.attributes)
            if isinstance(sample.prompt, ShownPrompt):
                line |= {"classes": list(sample.prompt.words), "filename": sample.prompt.filename}
            print(json.dumps(line))
        return
    write_dataset(settings)


def _settings_from(argv: Sequence[str]) -> GenerateSettings:
    """The flags, on top of what the class file says where it says more than classes."""
    parse = partial(
        parse_settings, GenerateSettings, argv, prog="ubgen generate", description=(__doc__ or "").split("\n")[0]
    )
    settings = parse()
    file = read_prompt_file(settings.classes) if settings.classes is not None else None
    if file is None:
        for note in getattr(settings.plan(), "notes", ()):
            say(f"{settings.classes}: {note}")
        return settings
    for note in file.notes:
        say(f"{settings.classes}: {note}")
    if file.model not in (None, settings.model):
        say(
            f"{settings.classes} was written for {file.model}; drawing with {settings.model!r} at its own size unless"
            " --model, --height or --width say otherwise"
        )
    return parse(defaults=file.defaults(settings.model))


def write_dataset(settings: GenerateSettings) -> None:
    """Check everything, then write the shards that are missing and that this process has to write."""
    if settings.output_dir is None:
        raise ValueError("output_dir is missing; give the dataset's folder, or dry_run.")
    plan = settings.plan()
    names = label_names(plan.classes)
    import torch

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    facts = manifest(settings, plan, torch.get_num_threads(), device)
    num_samples = len(plan)
    shards = DatasetShards(settings.output_dir, facts, num_samples, settings.samples_per_shard)
    shards.check()
    if shards.is_finished():
        say(f"{shards.folder} is finished, {num_samples} images: nothing to do")
        return
    own = [shard for shard in shards.missing() if shard.number % world_size == rank]
    if own:
        if device == "cuda" and "LOCAL_RANK" in os.environ:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        # before the folder is made: a model that does not load leaves nothing behind
        pipeline = _load_pipeline(settings, device)
        num_chunks = check_prompts(settings, plan, pipeline)
        shards.open()
        features = dataset_features(settings, plan, names, pipeline.safety_checker is not None)
        report = _progress(sum(shard.stop - shard.start for shard in own))
        for shard in own:
            shards.write(shard, dataset_rows(settings, pipeline, plan, num_chunks, shard, report), features)
    if rank == 0:
        while shards.missing():
            time.sleep(0.5)
        shards.finish(card(settings, plan, names))
        say(f"{shards.folder}: {num_samples} images of {len(names)} classes in {len(shards.shards)} shards")


def _load_pipeline(settings: GenerateSettings, device: str) -> "UbGenPipeline":
    from .models import load_pipeline

    pipeline = load_pipeline(
        settings.model,
        lora=settings.lora,
        scheduler=settings.scheduler,
        revision=settings.revision,
        embeddings=settings.embeddings or (),
        device=device,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.latent_shape(settings.height, settings.width)
    return pipeline


def _progress(num_images: int) -> Callable[[int], None]:
    """A function that counts images made and reports images/s and time left on stderr."""
    started = last = time.monotonic()
    done = 0

    def report(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        # a line every second is enough, in a terminal or a log
        if now - last < 1 and done < num_images:
            return
        last = now
        rate = done / max(now - started, 1e-9)
        left = time.strftime("%H:%M:%S", time.gmtime((num_images - done) / rate))
        say(f"{done}/{num_images} images, {rate:.2f} images/s, {left} left")

    return report


if __name__ == "__main__":
    sys.exit(main())

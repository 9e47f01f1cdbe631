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
from .dataset_facts import DatasetCardMaker, Generator, manifest
from .dataset_rows import check_prompts, dataset_features, dataset_rows, say
from .dataset_shards import DatasetShards
from .generate_settings import GenerateSettings
from .hub_datasets import HubDataset
from .model_sources import hub_commit
from .prompt_plan import read_prompt_file
from .settings_parser import parse_settings, run_command
from .source_plan import SourcePlan

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from .pipeline import UbGenPipeline


def generate_dataset(
    class_names: Sequence[str] | str | Path | None, output_dir: str | Path | None = None, **settings: Any
) -> "Dataset | IterableDataset":
    """Generate, or finish generating, the dataset in ``output_dir`` and return it as a ``datasets.Dataset``.

    With ``hub_dataset_id`` and without ``keep_local`` it is not here any more: the streaming one on the Hub is
    returned.

    Args:
        class_names: class names, a class file, or the name of a built-in list; None takes the source's classes.
        output_dir: the dataset's folder; may be left out with ``hub_dataset_id``.
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
    if output_dir is not None:
        given["output_dir"] = str(output_dir)
    asked = GenerateSettings(**{**defaults, **settings, **given})
    write_dataset(asked)
    if asked.hub_dataset_id is not None and not asked.keep_local:
        dataset = load_dataset(asked.hub_dataset_id, split="train", streaming=True)
    else:
        dataset = load_dataset(str(asked.folder()), split="train")
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
    folder, plan = settings.folder(), settings.plan()
    names = label_names(plan.classes)
    import torch

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    generator = Generator(
        settings.model, settings.lora, hub_commit(settings.model, settings.revision), hub_commit(settings.lora)
    )
    facts = manifest(settings, plan, generator, torch.get_num_threads(), device)
    num_samples = len(plan)
    shards = DatasetShards(folder, facts, num_samples, settings.samples_per_shard)
    shards.check()
    card = DatasetCardMaker(shards, names, generator, plan.turns, settings.hub_dataset_id)
    hub = None
    if settings.hub_dataset_id is not None:
        hub = HubDataset(
            settings.hub_dataset_id,
            shards,
            card,
            private=settings.private,
            keep_local=settings.keep_local,
            shards_per_commit=settings.shards_per_commit,
            rank=rank,
            num_processes=world_size,
        )
    elif shards.is_finished():
        say(f"{shards.folder} is finished, {num_samples} images: nothing to do")
        return
    missing = shards.missing() if hub is None else hub.open()
    own = [shard for shard in missing if shard.number % world_size == rank]
    if own:
        if device == "cuda" and "LOCAL_RANK" in os.environ:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        # before the folder is made: a model that does not load leaves nothing behind
        pipeline = _load_pipeline(settings, generator, device)
        num_chunks = check_prompts(settings, plan, pipeline)
        shards.open()
        features = dataset_features(settings, plan, names, pipeline.safety_checker is not None)
        report = _progress(sum(shard.stop - shard.start for shard in own))
        for shard in own:
            shards.write(shard, dataset_rows(settings, generator, pipeline, plan, num_chunks, shard, report), features)
            if hub is not None:
                hub.add(shard)
    made = f"{num_samples} images of {len(names)} classes in {len(shards.shards)} shards"
    if hub is not None:
        hub.flush()
        if settings.keep_local and not shards.missing():
            shards.finish(card(shards.shards, shards.num_bytes()))
        say(f"{settings.hub_dataset_id}: {len(own)} shards made here; {made} in all")
    elif rank == 0:
        while shards.missing():
            time.sleep(0.5)
        shards.finish(card(shards.shards, shards.num_bytes()))
        say(f"{shards.folder}: {made}")


def _load_pipeline(settings: GenerateSettings, generator: Generator, device: str) -> "UbGenPipeline":
    from .models import load_pipeline

    pipeline = load_pipeline(
        settings.model,
        lora=settings.lora,
        scheduler=settings.scheduler,
        revision=generator.model_revision or settings.revision,
        lora_revision=generator.lora_revision,
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

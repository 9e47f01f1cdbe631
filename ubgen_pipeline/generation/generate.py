"""Generate a labelled image dataset from class names, as parquet shards that ``datasets.load_dataset`` reads.

``generate_dataset`` is the Python call, ``main`` the body of ``ubgen generate``. Sample i belongs to class
i mod num_classes, so any prefix of a dataset is balanced. Under ``accelerate launch`` rank r makes shards
r, r + world size, …; a shard's content does not depend on who made it.
"""

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..commands.console import say
from ..commands.settings_parser import parse_settings, run_command
from ..files.folder_lock import writing_into
from ..prompts.template_files import PromptFile
from ..samples.caption_samples import ShownPrompt
from ..samples.prompt_samples import read_prompt_file
from ..samples.source_samples import SourceSamples
from .dataset_run import DatasetRun
from .settings import GenerateSettings

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


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
    file = read_prompt_file(class_names, settings.get("task")) if isinstance(class_names, (str, Path)) else None
    defaults = file.defaults(settings.get("model", "mini")) if file else {}
    if output_dir is not None:
        given["output_dir"] = str(output_dir)
    asked = GenerateSettings(**{**defaults, **settings, **given})
    _say_notes(asked, file)
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
            if isinstance(plan, SourceSamples):
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
    if file is not None:
        # what the file says hangs on the task, and the task is the flag's before the file's
        task = None if file.task is None else parse(defaults={"task": file.task}).task
        file = read_prompt_file(str(settings.classes), task)
        settings = parse(defaults=file.defaults(settings.model) if file else None)
    _say_notes(settings, file)
    return settings


def _say_notes(settings: GenerateSettings, file: PromptFile | None) -> None:
    """What of the class file does not count, on stderr."""
    remarks = [] if file is None else file.remarks(settings.model, has_embeddings=bool(settings.embeddings))
    if file is None or file.variations is not None:
        remarks += getattr(settings.plan(), "notes", ())
    for note in remarks:
        say(f"{settings.classes}: {note}")


def write_dataset(settings: GenerateSettings) -> None:
    """Check everything, then write the shards that are missing and that this process has to write."""
    run = DatasetRun(settings, int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    with writing_into(run.shards.folder, run.rank):
        if settings.engine == "ray":
            from .ray_engine import write_with_ray

            write_with_ray(run)
        else:
            run.write(run.missing())
        run.finish()


if __name__ == "__main__":
    sys.exit(main())

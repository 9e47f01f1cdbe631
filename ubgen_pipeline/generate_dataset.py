"""Generate a labelled image dataset from class names, as parquet shards that ``datasets.load_dataset`` reads.

``generate_dataset`` is the Python call, ``main`` the body of ``ubgen generate``. Sample i belongs to class
i mod num_classes, so any prefix of a dataset is balanced. Under ``accelerate launch`` rank r makes shards
r, r + world size, …; a shard's content does not depend on who made it.
"""

import dataclasses
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .class_prompts import ClassName, ClassPrompt, class_prompts, label_names, load_class_names
from .dataset_facts import DatasetCardMaker, Generator
from .dataset_shards import DatasetShards, Shard
from .hub_access import check_repo_id
from .hub_datasets import HubDataset
from .model_sources import fingerprint, hub_commit, public_name
from .sample_seeds import sample_seed
from .settings_parser import field_help, parse_settings, run_command

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

    from .pipeline import UbGenPipeline


@dataclass(frozen=True)
class GenerateSettings:
    """Settings of ``ubgen generate``."""

    class_names: list[str] | None = field_help("class names; or use --classes", None)
    classes: str | None = field_help("a class file, or a built-in list: imagenet1k, imagenet100, voc, coco", None)
    samples_per_class: int = field_help("images of each class", 10)
    output_dir: str | None = field_help("folder of the dataset; an unfinished one is resumed", None)
    model: str = field_help("mini, a folder in diffusers layout, or a Hub id", "mini")
    lora: str | None = field_help("folder, file or Hub id of a LoRA in diffusers format", None)
    revision: str | None = field_help("of the model on the Hub", None)
    template: str = field_help("prompt, with {name} and, where the classes have them, {definition}", "{name}")
    negative_prompt: str | None = field_help("text to guide away from", None)
    num_inference_steps: int = field_help("denoising steps", 50)
    guidance_scale: float = field_help("classifier-free guidance; 1 or less means none", 2.0)
    scheduler: str | None = field_help("ddpm, ddim, pndm, dpm++ or unipc; the model's own if not given", None)
    height: int | None = field_help("image height in pixels; the model's own if not given", None)
    width: int | None = field_help("image width in pixels; the model's own if not given", None)
    seed: int = field_help("seed of the run, from 0 to 2**63 - 1", 0)
    batch_size: int = field_help("samples denoised together; part of what a resume must match", 16)
    samples_per_shard: int = field_help("rows of a parquet file", 256)
    threads: int | None = field_help("CPU threads; torch's own choice if not given; a resume must match it", None)
    device: str | None = field_help("cpu, cuda, …; CUDA where there is one, if not given", None)
    hub_dataset_id: str | None = field_help("owner/name of a dataset on the Hub, filled as shards are finished", None)
    private: bool = field_help("create the dataset on the Hub private", False)
    keep_local: bool = field_help("keep the shards' files here after they are on the Hub", False)
    shards_per_commit: int = field_help("finished shards that make a commit on the Hub", 8)
    dry_run: bool = field_help("print one JSON line per sample, and load no model", False)

    def __post_init__(self) -> None:
        counts = ("samples_per_class", "num_inference_steps", "batch_size", "samples_per_shard", "shards_per_commit")
        for name in counts:
            _check_count(name, getattr(self, name))
        for name in ("threads", "height", "width"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        if not 0 <= self.guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale is {self.guidance_scale}; give a number of at least 0.")
        sample_seed(self.seed, "", 0)
        if (self.class_names is None) == (self.classes is None):
            raise ValueError("give the classes either by class_names or by classes, a file or built-in list.")
        if self.hub_dataset_id is not None:
            check_repo_id("hub_dataset_id", self.hub_dataset_id)
        elif self.private or self.keep_local:
            name = "private" if self.private else "keep_local"
            raise ValueError(f"{name} is set without hub_dataset_id; name the dataset on the Hub, or leave it out.")

    def load_classes(self) -> list[ClassName]:
        return load_class_names(self.classes if self.classes is not None else self.class_names or [])


# they say where the dataset goes, not what it holds
HUB_SETTINGS = ("hub_dataset_id", "private", "keep_local", "shards_per_commit")


@dataclass(frozen=True)
class Sample:
    """One image to be drawn; everything about it is known before a model is loaded."""

    index: int
    prompt: ClassPrompt
    seed: int


def generate_dataset(
    class_names: Sequence[str] | str | Path, output_dir: str | Path | None = None, **settings: Any
) -> "Dataset | IterableDataset":
    """Generate, or finish generating, the dataset in ``output_dir`` and return it as a ``datasets.Dataset``.

    With ``hub_dataset_id`` and without ``keep_local`` it is not here any more: the streaming one on the Hub is
    returned.

    Args:
        class_names: class names, a class file, or the name of a built-in list.
        output_dir: the dataset's folder; may be left out with ``hub_dataset_id``.
        **settings: other fields of :class:`GenerateSettings`.

    Raises:
        ValueError: a setting out of range, an unknown model, a LoRA that does not fit, or a folder that holds
            something else or a dataset made with other settings.
        OSError: the folder cannot be written, or the disk is full; what was committed stays and is resumed.
    """
    from datasets import load_dataset

    given = (
        {"classes": str(class_names)} if isinstance(class_names, (str, Path)) else {"class_names": list(class_names)}
    )
    folder = None if output_dir is None else str(output_dir)
    asked = GenerateSettings(output_dir=folder, **given, **settings)
    write_dataset(asked)
    if asked.hub_dataset_id is not None and not asked.keep_local:
        dataset = load_dataset(asked.hub_dataset_id, split="train", streaming=True)
    else:
        dataset = load_dataset(str(_folder(asked)), split="train")
    return dataset  # pyright: ignore[reportReturnType]


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen generate``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(
        GenerateSettings, argv, prog="ubgen generate", description=(__doc__ or "").split("\n")[0]
    )
    if settings.dry_run:
        prompts = class_prompts(settings.load_classes(), settings.template)
        for sample in samples(settings, prompts, range(len(prompts) * settings.samples_per_class)):
            line = {
                "index": sample.index,
                "class_name": sample.prompt.name,
                "label": sample.prompt.label,
                "prompt": sample.prompt.prompt,
                "seed": sample.seed,
            }
            print(json.dumps(line))
        return
    write_dataset(settings)


def samples(settings: GenerateSettings, prompts: Sequence[ClassPrompt], indices: range) -> Iterator[Sample]:
    """The samples of those indices: classes take turns, and the seed hashes the class's key and its own count."""
    for index in indices:
        number, label = divmod(index, len(prompts))
        yield Sample(index, prompts[label], sample_seed(settings.seed, prompts[label].key, number))


def write_dataset(settings: GenerateSettings) -> None:
    """Check everything, then write the shards that are missing and that this process has to write."""
    folder = _folder(settings)
    classes = settings.load_classes()
    names = label_names(classes)
    prompts = class_prompts(classes, settings.template)
    import torch

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    generator = Generator(
        settings.model, settings.lora, hub_commit(settings.model, settings.revision), hub_commit(settings.lora)
    )
    manifest = _manifest(settings, classes, generator, torch.get_num_threads(), device)
    num_samples = len(prompts) * settings.samples_per_class
    shards = DatasetShards(folder, manifest, num_samples, settings.samples_per_shard)
    shards.check()
    card = DatasetCardMaker(shards, names, generator, settings.hub_dataset_id)
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
        _say(f"{shards.folder} is finished, {num_samples} images: nothing to do")
        return
    missing = shards.missing() if hub is None else hub.open()
    own = [shard for shard in missing if shard.number % world_size == rank]
    if own:
        if device == "cuda" and "LOCAL_RANK" in os.environ:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        # before the folder is made: a model that does not load leaves nothing behind
        pipeline = _load_pipeline(settings, generator, prompts, device)
        shards.open()
        features = _features(names, pipeline.safety_checker is not None)
        report = _progress(sum(shard.stop - shard.start for shard in own))
        for shard in own:
            shards.write(shard, _rows(settings, generator, pipeline, prompts, shard, report), features)
            if hub is not None:
                hub.add(shard)
    made = f"{num_samples} images of {len(names)} classes in {len(shards.shards)} shards"
    if hub is not None:
        hub.flush()
        if settings.keep_local and not shards.missing():
            shards.finish(card(shards.shards, shards.num_bytes()))
        _say(f"{settings.hub_dataset_id}: {len(own)} shards made here; {made} in all")
    elif rank == 0:
        while shards.missing():
            time.sleep(0.5)
        shards.finish(card(shards.shards, shards.num_bytes()))
        _say(f"{shards.folder}: {made}")


def _folder(settings: GenerateSettings) -> Path:
    """The dataset's folder; for a dataset on the Hub that needs none here, one beside the Hub's cache."""
    if settings.output_dir is not None:
        return Path(settings.output_dir).expanduser()
    if settings.hub_dataset_id is None or settings.keep_local:
        raise ValueError("output_dir is missing; give the dataset's folder, or dry_run.")
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "ubgen" / settings.hub_dataset_id.replace("/", "--")


def _load_pipeline(
    settings: GenerateSettings, generator: Generator, prompts: Sequence[ClassPrompt], device: str
) -> "UbGenPipeline":
    from .models import load_pipeline

    pipeline = load_pipeline(
        settings.model,
        lora=settings.lora,
        scheduler=settings.scheduler,
        revision=generator.model_revision or settings.revision,
        lora_revision=generator.lora_revision,
        device=device,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.check_prompt_lengths([item.prompt for item in prompts], [item.name for item in prompts])
    pipeline.latent_shape(settings.height, settings.width)
    return pipeline


def _rows(
    settings: GenerateSettings,
    generator: Generator,
    pipeline: "UbGenPipeline",
    prompts: Sequence[ClassPrompt],
    shard: Shard,
    report: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    """The shard's rows, drawn in batches that start with the shard."""
    for start in range(shard.start, shard.stop, settings.batch_size):
        batch = list(samples(settings, prompts, range(start, min(start + settings.batch_size, shard.stop))))
        output = pipeline(
            [sample.prompt.name for sample in batch],
            prompts=[sample.prompt.prompt for sample in batch],
            seeds=[sample.seed for sample in batch],
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            negative_prompt=settings.negative_prompt,
            height=settings.height,
            width=settings.width,
        )
        assert not isinstance(output, tuple)
        for position, sample in enumerate(batch):
            png = io.BytesIO()
            output.images[position].save(png, format="PNG")
            row = {
                "image": {"bytes": png.getvalue(), "path": None},
                "label": sample.prompt.label,
                "class_name": sample.prompt.name,
                "prompt": sample.prompt.prompt,
                "seed": sample.seed,
                "index": sample.index,
                "model": public_name(settings.model),
                "model_revision": generator.model_revision,
                "lora": public_name(settings.lora),
                "lora_revision": generator.lora_revision,
                "num_inference_steps": settings.num_inference_steps,
                "guidance_scale": settings.guidance_scale,
                "scheduler": type(pipeline.scheduler).__name__,
                "negative_prompt": settings.negative_prompt,
            }
            if output.nsfw_content_detected is not None:
                row["nsfw_content_detected"] = output.nsfw_content_detected[position]
            yield row
        report(len(batch))


def _features(names: Sequence[str], has_safety_checker: bool) -> "Features":
    from datasets import ClassLabel, Features, Image, Value

    columns: dict[str, Any] = {"image": Image(), "label": ClassLabel(names=list(names))}
    columns |= {name: Value("string") for name in ("class_name", "prompt")}
    columns |= {name: Value("int64") for name in ("seed", "index")}
    columns |= {name: Value("string") for name in ("model", "model_revision", "lora", "lora_revision")}
    columns |= {"num_inference_steps": Value("int64"), "guidance_scale": Value("float64")}
    columns |= {name: Value("string") for name in ("scheduler", "negative_prompt")}
    # the checker blackens what it flags, so such rows are marked; without a checker there is nothing to say
    if has_safety_checker:
        columns["nsfw_content_detected"] = Value("bool")
    return Features(columns)


def _manifest(
    settings: GenerateSettings, classes: Sequence[ClassName], generator: Generator, threads: int, device: str
) -> dict[str, Any]:
    """Everything that an image's bytes depend on; where models lie does not count, what they hold does."""
    kept = dataclasses.asdict(settings)
    for name in ("output_dir", "dry_run", "class_names", "classes", "model", "lora", *HUB_SETTINGS):
        del kept[name]
    from .models import resolve_model

    return {
        **kept,
        "class_names": [[item.name, item.class_id, item.definition] for item in classes],
        "model": fingerprint(resolve_model(settings.model)),
        "lora": fingerprint(settings.lora),
        "model_revision": generator.model_revision,
        "lora_revision": generator.lora_revision,
        "threads": threads,
        "device": device,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "pillow", "pyarrow")},
    }


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
        _say(f"{done}/{num_images} images, {rate:.2f} images/s, {left} left")

    return report


def _say(text: str) -> None:
    print(f"ubgen: {text}", file=sys.stderr, flush=True)


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; give an integer of at least 1.")


if __name__ == "__main__":
    sys.exit(main())

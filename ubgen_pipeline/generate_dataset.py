"""Generate a labelled image dataset from class names, as parquet shards that ``datasets.load_dataset`` reads.

``generate_dataset`` is the Python call, ``main`` the body of ``ubgen generate``. Sample i belongs to class
i mod num_classes, so any prefix of a dataset is balanced. Under ``accelerate launch`` rank r makes shards
r, r + world size, …; a shard's content does not depend on who made it.
"""

import dataclasses
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .class_prompts import label_names
from .dataset_shards import DatasetShards, Shard
from .prompt_plan import PromptPlan, plan_prompts, read_prompt_file
from .sample_seeds import sample_seed
from .settings_parser import field_help, parse_settings, run_command
from .source_dataset import SourceDataset, parse_class_map
from .source_plan import SourcePlan, SourceSettings, check_task

if TYPE_CHECKING:
    from datasets import Dataset, Features

    from .pipeline import UbGenPipeline


@dataclass(frozen=True)
class GenerateSettings:
    """Settings of ``ubgen generate``."""

    class_names: list[str] | None = field_help("class names; or use --classes", None)
    classes: str | None = field_help(
        "a class file, a built-in list (imagenet1k, imagenet100, voc, coco), or a file with templates or"
        " DiffuGen's configuration, which then sets the defaults of other flags",
        None,
    )
    samples_per_class: int | None = field_help(
        "images of each class; 10, or all prompts of a file with templates", None
    )
    output_dir: str | None = field_help("folder of the dataset; an unfinished one is resumed", None)
    model: str = field_help("mini, a folder in diffusers layout, or a Hub id", "mini")
    lora: str | None = field_help("folder, file or Hub id of a LoRA in diffusers format", None)
    revision: str | None = field_help("of the model on the Hub", None)
    template: str = field_help("prompt, with {name} and, where the classes have them, {definition}", "{name}")
    definitions: bool = field_help("join each class's definition, or else WordNet's, to its prompt", False)
    max_prompts: int | None = field_help("different prompts of each class, drawn by the seed; all if not given", None)
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
    embeddings: list[str] | None = field_help(
        "textual inversions for words in the prompts: FILE, or FILE=TOKEN to name its word", None
    )
    task: str = field_help("text-to-image, image-to-image or inpaint; the last two need --source", "text-to-image")
    source: str | None = field_help("dataset to start from: folder or Hub id; rows need image and label", None)
    source_split: str = field_help("split of the source", "train")
    source_class_map: list[str] | None = field_help(
        "NAME=CLASS for each class of the source that is called otherwise here", None
    )
    samples_per_source: int = field_help("images drawn from each source row", 1)
    strength: float = field_help("share of the steps that a source image goes through, above 0 up to 1", 0.8)
    region: str = field_help("what inpainting draws anew, by the source's masks: object or background", "object")
    region_margin: int = field_help("pixels that this region is grown by", 0)
    dry_run: bool = field_help("print one JSON line per sample, and load no model", False)

    def __post_init__(self) -> None:
        for name in ("num_inference_steps", "batch_size", "samples_per_shard", "samples_per_source"):
            _check_count(name, getattr(self, name))
        for name in ("samples_per_class", "max_prompts", "threads", "height", "width"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        if not 0 <= self.guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale is {self.guidance_scale}; give a number of at least 0.")
        sample_seed(self.seed, "", 0)
        check_task(self.task, self.source, self.strength, self.region, self.region_margin)
        if self.source is not None and self.samples_per_class is not None:
            raise ValueError(
                "samples_per_class is given with a source; give samples_per_source, the images of each source row."
            )
        if self.source is not None and self.class_names is None and self.classes is None:
            return
        if (self.class_names is None) == (self.classes is None):
            raise ValueError("give the classes either by class_names or by classes, a file or built-in list.")

    def plan(self) -> PromptPlan:
        """The prompt and seed of each sample, and its source where there is one."""
        if self.source is None:
            return self._prompt_plan(self.classes if self.classes is not None else self.class_names or [])
        class_map = parse_class_map(self.source_class_map or [], "source_class_map")
        if self.class_names is None and self.classes is None:
            source = SourceDataset(self.source, self.source_split, class_map=class_map)
            plan = self._prompt_plan(source.new_names)
        else:
            plan = self._prompt_plan(self.classes if self.classes is not None else self.class_names or [])
            source = SourceDataset(self.source, self.source_split, label_names(plan.classes), class_map)
        how = SourceSettings(self.task, self.strength, self.region, self.region_margin, self.samples_per_source)
        fields = {item.name: getattr(plan, item.name) for item in dataclasses.fields(PromptPlan)}
        return SourcePlan(**fields, source=source, settings=how)

    def _prompt_plan(self, classes: str | Sequence[str]) -> PromptPlan:
        return plan_prompts(
            classes,
            template=self.template,
            seed=self.seed,
            samples_per_class=self.samples_per_class,
            max_prompts=self.max_prompts,
            negative_prompt=self.negative_prompt,
            definitions=self.definitions,
        )


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
        return settings
    for note in file.notes:
        _say(f"{settings.classes}: {note}")
    if file.model not in (None, settings.model):
        _say(
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
    manifest = _manifest(settings, plan, torch.get_num_threads(), device)
    num_samples = len(plan)
    shards = DatasetShards(settings.output_dir, manifest, num_samples, settings.samples_per_shard)
    shards.check()
    if shards.is_finished():
        _say(f"{shards.folder} is finished, {num_samples} images: nothing to do")
        return
    own = [shard for shard in shards.missing() if shard.number % world_size == rank]
    if own:
        if device == "cuda" and "LOCAL_RANK" in os.environ:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        # before the folder is made: a model that does not load leaves nothing behind
        pipeline = _load_pipeline(settings, device)
        num_chunks = _check_prompts(settings, plan, pipeline)
        shards.open()
        features = _features(names, plan, pipeline.safety_checker is not None)
        report = _progress(sum(shard.stop - shard.start for shard in own))
        for shard in own:
            shards.write(shard, _rows(settings, pipeline, plan, num_chunks, shard, report), features)
    if rank == 0:
        while shards.missing():
            time.sleep(0.5)
        shards.finish(_card(settings, plan, names))
        _say(f"{shards.folder}: {num_samples} images of {len(names)} classes in {len(shards.shards)} shards")


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


def _check_prompts(settings: GenerateSettings, plan: PromptPlan, pipeline: "UbGenPipeline") -> int | None:
    """Refuse prompts that are too long; where they are meant to work, give the chunks that the longest takes.

    That is a number for the whole run, so that an image does not depend on the others of its batch.
    """
    prompts = plan.prompts()
    if not plan.allows_long_prompts:
        pipeline.check_prompt_lengths([item.prompt for item in prompts], [item.name for item in prompts])
        return None
    return pipeline.count_prompt_chunks([settings.negative_prompt or "", *(item.prompt for item in prompts)])


def _rows(
    settings: GenerateSettings,
    pipeline: "UbGenPipeline",
    plan: PromptPlan,
    num_chunks: int | None,
    shard: Shard,
    report: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    """The shard's rows, drawn in batches that start with the shard."""
    for start in range(shard.start, shard.stop, settings.batch_size):
        batch = [plan.sample(index) for index in range(start, min(start + settings.batch_size, shard.stop))]
        source_rows = (
            plan.rows(batch, pipeline.image_size(settings.height, settings.width))
            if isinstance(plan, SourcePlan)
            else []
        )
        output = pipeline(
            [sample.prompt.name for sample in batch],
            prompts=[sample.prompt.prompt for sample in batch],
            seeds=[sample.seed for sample in batch],
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            negative_prompt=settings.negative_prompt,
            height=settings.height,
            width=settings.width,
            weighted_prompts=num_chunks is not None,
            num_prompt_chunks=num_chunks,
            **(plan.arguments(source_rows) if isinstance(plan, SourcePlan) else {}),
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
                "model": _public_name(settings.model),
                "lora": _public_name(settings.lora),
                "num_inference_steps": settings.num_inference_steps,
                "guidance_scale": settings.guidance_scale,
                "scheduler": type(pipeline.scheduler).__name__,
                "negative_prompt": settings.negative_prompt,
            }
            if plan.attribute_names:
                given = dict(sample.prompt.attributes)
                row["attributes"] = {name: given.get(name) for name in plan.attribute_names}
            if isinstance(plan, SourcePlan):
                row |= plan.columns(source_rows[position])
            if output.nsfw_content_detected is not None:
                row["nsfw_content_detected"] = output.nsfw_content_detected[position]
            yield row
        report(len(batch))


def _features(names: Sequence[str], plan: PromptPlan, has_safety_checker: bool) -> "Features":
    from datasets import ClassLabel, Features, Image, Value

    columns: dict[str, Any] = {"image": Image(), "label": ClassLabel(names=list(names))}
    columns |= {name: Value("string") for name in ("class_name", "prompt")}
    columns |= {name: Value("int64") for name in ("seed", "index")}
    columns |= {name: Value("string") for name in ("model", "lora")}
    columns |= {"num_inference_steps": Value("int64"), "guidance_scale": Value("float64")}
    columns |= {name: Value("string") for name in ("scheduler", "negative_prompt")}
    if plan.attribute_names:
        columns["attributes"] = {name: Value("string") for name in plan.attribute_names}
    if isinstance(plan, SourcePlan):
        columns |= plan.features()
    # the checker blackens what it flags, so such rows are marked; without a checker there is nothing to say
    if has_safety_checker:
        columns["nsfw_content_detected"] = Value("bool")
    return Features(columns)


def _manifest(settings: GenerateSettings, plan: PromptPlan, threads: int, device: str) -> dict[str, Any]:
    """Everything that an image's bytes depend on; where models lie does not count, what they hold does."""
    kept = dataclasses.asdict(settings)
    # the task and its source stand in the plan's facts, the source by what it holds
    for name in ("output_dir", "dry_run", "class_names", "classes", "model", "lora", "embeddings", "source"):
        del kept[name]
    from .models import resolve_model
    from .text_embeddings import split_embedding

    return {
        **kept,
        "class_names": [[item.name, item.class_id, item.definition, *item.synonyms] for item in plan.classes],
        "prompts": plan.facts(),
        "samples_per_class": plan.samples_per_class,
        "model": _fingerprint(resolve_model(settings.model)),
        "lora": _fingerprint(settings.lora),
        "embeddings": [[_fingerprint(file), token] for file, token in map(split_embedding, settings.embeddings or ())],
        "threads": threads,
        "device": device,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "pillow", "pyarrow")},
    }


def _fingerprint(source: str | None) -> str | None:
    """SHA-256 of a model's or LoRA's files, for those that are here; a Hub id stands for itself."""
    if source is None or not Path(source).expanduser().exists():
        return source
    path = Path(source).expanduser()
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors")) + sorted(path.rglob("*.json"))
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            digest.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()


def _public_name(source: str | None) -> str | None:
    """A model's name as it may be published: of a path on this machine, its last part only."""
    if source is not None and Path(source).expanduser().exists():
        return Path(source).expanduser().resolve().name
    return source


def _card(settings: GenerateSettings, plan: PromptPlan, names: Sequence[str]) -> str:
    # no `configs`: datasets finds data/train-*.parquet itself, and with `configs` its cache would take two local
    # folders of one name for the same dataset
    metadata = {"task_categories": ["image-classification"], "tags": ["synthetic", "ubgen"]}
    facts = {
        "classes": list(names),
        "samples_per_class": plan.samples_per_class,
        "model": _public_name(settings.model),
        "lora": _public_name(settings.lora),
        "templates": list(plan.file.templates.templates),
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "seed": settings.seed,
    }
    # an indented block of JSON: no text in it can end the block or become markup
    block = "\n".join("    " + line for line in json.dumps(facts, indent=2).splitlines())
    return (
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n# Generated images\n\n"
        f"{len(plan)} synthetic images of {len(names)} classes, drawn by a text-to-image model with ubgen."
        " Labels are what the model was asked for; nobody has checked that the images show it.\n\n"
        f"{block}\n"
    )


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

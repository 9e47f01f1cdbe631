"""What a dataset says of itself: the manifest that a resume must match, and the card."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .prompt_plan import PromptPlan

if TYPE_CHECKING:
    from .generate_settings import GenerateSettings, Plan


def manifest(settings: "GenerateSettings", plan: "Plan", threads: int, device: str) -> dict[str, Any]:
    """Everything that an image's bytes depend on; where models lie does not count, what they hold does."""
    from .models import resolve_model
    from .text_embeddings import split_embedding

    kept = dataclasses.asdict(settings)
    # the task and its source stand in the plan's facts, the source by what it holds
    for name in ("output_dir", "dry_run", "class_names", "classes", "model", "lora", "embeddings", "source"):
        del kept[name]
    # the settings that masks are made with stand for those that were given
    kept = {name: value for name, value in kept.items() if not name.startswith("mask_")}
    libraries = ["torch", "diffusers", "transformers", "pillow", "pyarrow"]
    if settings.wanted_annotations():
        kept["mask_settings"] = dataclasses.asdict(settings.mask_settings(resolve_model(settings.model)))
        libraries += ["scipy", "contourpy"]
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
        "versions": {name: version(name) for name in libraries},
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


def public_name(source: str | None) -> str | None:
    """A model's name as it may be published: of a path on this machine, its last part only."""
    if source is not None and Path(source).expanduser().exists():
        return Path(source).expanduser().resolve().name
    return source


def card(settings: "GenerateSettings", plan: "Plan", names: Sequence[str]) -> str:
    # no `configs`: datasets finds data/train-*.parquet itself, and with `configs` its cache would take two local
    # folders of one name for the same dataset
    tasks = {"mask": "image-segmentation", "box": "object-detection"}
    tasks = [task for name, task in tasks.items() if name in settings.wanted_annotations()]
    metadata = {"task_categories": ["image-classification", *tasks], "tags": ["synthetic", "ubgen"]}
    facts = {
        "classes": list(names),
        "samples_per_class": plan.samples_per_class,
        "model": public_name(settings.model),
        "lora": public_name(settings.lora),
        "templates": list(plan.file.templates.templates) if isinstance(plan, PromptPlan) else [],
        "annotations": list(settings.wanted_annotations()),
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

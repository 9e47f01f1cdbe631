"""What is said and drawn about one image that was clicked, whether it was just drawn or comes from a dataset."""

import shlex
from collections.abc import Collection
from typing import Any

from dataset_rows import DatasetRow
from overlay import BOXES, MASK, draw_overlay
from sampler import DrawnSample, regenerate_command
from space_settings import SpaceSettings


def available_layers(item: DrawnSample | DatasetRow) -> list[str]:
    """What can be drawn over the image."""
    has_boxes = item.boxes is not None and len(item.boxes) > 0
    return [name for name, is_there in ((MASK, item.mask is not None), (BOXES, has_boxes)) if is_there]


def image_command(item: DrawnSample | DatasetRow, settings: SpaceSettings) -> str:
    """The shell command that draws the image again; empty where its row does not say enough."""
    if isinstance(item, DrawnSample):
        return regenerate_command(item, settings)
    if {"prompt", "seed", "model", "index"} <= set(item.fields):
        return shlex.join(["ubgen", "regenerate", item.source_name, "--index", item.fields["index"]])
    return ""


def draw_layers(item: DrawnSample | DatasetRow | None, layers: Collection[str]) -> Any:
    """The image with those of the layers that it has."""
    if item is None:
        return None
    return draw_overlay(item.image, item.mask if MASK in layers else None, item.boxes if BOXES in layers else None)


def image_facts(item: DrawnSample | DatasetRow) -> dict[str, object]:
    """What is known about the image, by name."""
    if isinstance(item, DatasetRow):
        return {"row": item.position, **item.fields}
    request = item.request
    facts: dict[str, object] = {
        "prompt": item.prompt,
        "class": request.class_name,
        "model": item.variant,
        "seed": item.seed,
        "steps": request.num_inference_steps,
        "guidance": "none" if request.guidance_scale is None else f"{request.guidance_scale:g}",
        "size": f"{item.image.width} x {item.image.height}",
    }
    if item.boxes is not None:
        facts["boxes"] = ", ".join(str(tuple(int(value) for value in box)) for box in item.boxes) or "none found"
    if item.is_blackened:
        facts["note"] = "blackened by the model's safety checker"
    return facts

"""The panel below the images: the one that was clicked, with mask and boxes, what it was made from, and a command."""

import shlex
from dataclasses import dataclass
from typing import Any

import gradio as gr
from dataset_rows import DatasetRow
from overlay import draw_overlay
from page_html import fact_list, status_line
from sampler import DrawnSample, regenerate_command
from space_settings import SpaceSettings

MASK, BOXES = "Mask", "Boxes"


@dataclass(frozen=True)
class DetailsPanel:
    """The panel's components, in the order of :func:`show_details`."""

    group: gr.Group
    layers: gr.CheckboxGroup
    picture: gr.Image
    facts: gr.HTML
    command: gr.Code

    @property
    def outputs(self) -> list[Any]:
        return [self.group, self.layers, self.picture, self.facts, self.command]


def build_details(name: str) -> DetailsPanel:
    """An empty, hidden panel; ``name`` begins the ids of its elements."""
    with (
        gr.Column(visible=False, elem_id=f"{name}-details", elem_classes="ub-details") as group,
        gr.Row(equal_height=False),
    ):
        with gr.Column(min_width=280, scale=2):
            picture = gr.Image(
                label="Selected image",
                format="png",
                interactive=False,
                buttons=["download"],
                elem_id=f"{name}-picture",
                elem_classes="ub-picture",
            )
            layers = gr.CheckboxGroup([MASK, BOXES], value=[MASK, BOXES], label="Show", elem_id=f"{name}-layers")
        with gr.Column(min_width=280, scale=3):
            facts = gr.HTML(elem_id=f"{name}-facts")
            command = gr.Code(
                label="Draw it again",
                language="shell",
                interactive=False,
                wrap_lines=True,
                lines=1,
                elem_id=f"{name}-command",
            )
    return DetailsPanel(group, layers, picture, facts, command)


def hide_details() -> list[Any]:
    """Updates that empty the panel."""
    return [gr.update(visible=False), gr.skip(), None, "", ""]


def show_details(item: DrawnSample | DatasetRow | None, layers: list[str], settings: SpaceSettings) -> list[Any]:
    """Updates that fill the panel with an image."""
    if item is None:
        return hide_details()
    has_mask, has_boxes = item.mask is not None, bool(item.boxes is not None and len(item.boxes))
    available = [name for name, there in ((MASK, has_mask), (BOXES, has_boxes)) if there]
    facts, command = _facts(item), ""
    if isinstance(item, DrawnSample):
        command = regenerate_command(item, settings)
    elif {"prompt", "seed", "model", "index"} <= set(item.fields):
        command = shlex.join(["ubgen", "regenerate", item.source_name, "--index", item.fields["index"]])
    note = "" if available else status_line("No annotations: this image came without mask and boxes.")
    return [
        gr.update(visible=True),
        gr.update(visible=bool(available), choices=available),
        draw_layers(item, layers),
        fact_list(facts) + note,
        gr.update(value=command, visible=bool(command)),
    ]


def draw_layers(item: DrawnSample | DatasetRow | None, layers: list[str]) -> Any:
    """The image with the layers that are ticked."""
    if item is None:
        return None
    shown = set(layers) if isinstance(layers, list) else set()
    return draw_overlay(item.image, item.mask if MASK in shown else None, item.boxes if BOXES in shown else None)


def _facts(item: DrawnSample | DatasetRow) -> dict[str, object]:
    if isinstance(item, DatasetRow):
        return {"row": item.position, **item.fields}
    request = item.request
    facts: dict[str, object] = {
        "prompt": item.prompt,
        "class": request.class_name,
        "model": item.variant,
        "seed": item.seed,
        "steps": request.num_inference_steps,
        "guidance": f"{request.guidance_scale:g}",
        "size": f"{item.image.width} × {item.image.height}",
    }
    if item.boxes is not None:
        facts["boxes"] = ", ".join(str(tuple(int(value) for value in box)) for box in item.boxes) or "none found"
    if item.is_blackened:
        facts["note"] = "blackened by the model's safety checker"
    return facts

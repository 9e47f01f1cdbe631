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
    """The panel's components, and the updates that fill and empty them."""

    group: gr.Column
    layers: gr.CheckboxGroup
    picture: gr.Image
    facts: gr.HTML
    command: gr.Textbox

    @property
    def outputs(self) -> list[Any]:
        return [self.group, self.layers, self.picture, self.facts, self.command]

    def hidden(self) -> dict[Any, Any]:
        """Updates that empty the panel."""
        return {self.group: gr.update(visible=False), self.picture: None, self.facts: "", self.command: ""}

    def shown(self, item: DrawnSample | DatasetRow | None, layers: Any, settings: SpaceSettings) -> dict[Any, Any]:
        """Updates that fill the panel with an image; None empties it."""
        if item is None:
            return self.hidden()
        available = available_layers(item)
        note = "" if available else status_line("No annotations: this image came without mask and boxes.")
        command = image_command(item, settings)
        return {
            self.group: gr.update(visible=True),
            self.layers: gr.update(visible=bool(available), choices=available),
            self.picture: draw_layers(item, layers),
            self.facts: fact_list(image_facts(item)) + note,
            self.command: gr.update(value=command, visible=bool(command)),
        }

    def connect(self, visitor: gr.State) -> None:
        """Draw the layers anew when one is ticked."""
        self.layers.input(
            lambda visitor, layers: draw_layers(visitor.chosen, layers),
            [visitor, self.layers],
            self.picture,
            show_progress="hidden",
            api_visibility="private",
        )


def build_details(name: str) -> DetailsPanel:
    """An empty, hidden panel; ``name`` begins the ids of its elements."""
    with (
        gr.Column(visible=False, elem_id=f"{name}-details", elem_classes="ub-details") as group,
        gr.Row(equal_height=False),
    ):
        with gr.Column(min_width=280, scale=2):
            picture = gr.Image(
                show_label=False,
                format="png",
                interactive=False,
                buttons=["download"],
                elem_id=f"{name}-picture",
                elem_classes="ub-picture",
            )
            layers = gr.CheckboxGroup([MASK, BOXES], value=[MASK, BOXES], label="Show", elem_id=f"{name}-layers")
        with gr.Column(min_width=280, scale=3):
            facts = gr.HTML(elem_id=f"{name}-facts")
            command = gr.Textbox(
                label="Draw it again",
                interactive=False,
                lines=3,
                max_lines=8,
                buttons=["copy"],
                elem_id=f"{name}-command",
                elem_classes="ub-command",
            )
    return DetailsPanel(group, layers, picture, facts, command)


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


def draw_layers(item: DrawnSample | DatasetRow | None, layers: Any) -> Any:
    """The image with the layers that are ticked."""
    if item is None:
        return None
    shown = set(layers) if isinstance(layers, list) else set()
    return draw_overlay(item.image, item.mask if MASK in shown else None, item.boxes if BOXES in shown else None)


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
        "guidance": f"{request.guidance_scale:g}",
        "size": f"{item.image.width} × {item.image.height}",
    }
    if item.boxes is not None:
        facts["boxes"] = ", ".join(str(tuple(int(value) for value in box)) for box in item.boxes) or "none found"
    if item.is_blackened:
        facts["note"] = "blackened by the model's safety checker"
    return facts

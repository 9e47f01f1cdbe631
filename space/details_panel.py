"""The panel below the images: the one that was clicked, with mask and boxes, what it was made from, and a command."""

from dataclasses import dataclass
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from image_details import available_layers, draw_layers, image_command, image_facts
from overlay import LAYERS
from page_html import fact_list, status_line
from space_settings import SpaceSettings
from visitor import Visitor


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

    @property
    def scroll_there(self) -> str:
        """A function for the browser: an image far down in a long list opens a panel that is out of sight."""
        return (
            f"() => document.getElementById('{self.group.elem_id}')"
            "?.scrollIntoView({block: 'nearest', behavior: 'smooth'})"
        )

    def hidden(self) -> dict[Any, Any]:
        """Updates that empty the panel."""
        return {self.group: gr.update(visible=False), self.picture: None, self.facts: "", self.command: ""}

    def shown(self, visitor: Visitor, settings: SpaceSettings) -> dict[Any, Any]:
        """Updates that fill the panel with the image that the visitor chose, or empty it."""
        item = visitor.chosen
        if item is None:
            return self.hidden()
        available = available_layers(item)
        note = "" if available else status_line("No annotations: this image came without mask and boxes.")
        command = image_command(item, settings)
        return {
            self.group: gr.update(visible=True),
            # choices and value together: a value that is no choice any more would be an error at the next event
            self.layers: gr.update(
                visible=bool(available),
                choices=available,
                value=[name for name in available if name in visitor.layers],
            ),
            self.picture: draw_layers(item, visitor.layers),
            self.facts: fact_list(image_facts(item)) + note,
            self.command: gr.update(value=command, visible=bool(command)),
        }

    def connect(self, visitor: gr.State) -> None:
        """Draw the layers anew when one is ticked."""

        def tick(visitor: Visitor, ticked: list[str]) -> Any:
            if visitor.chosen is not None:
                # what this image lacks stays as it was wished
                visitor.layers = visitor.layers.difference(available_layers(visitor.chosen)).union(ticked)
            return draw_layers(visitor.chosen, visitor.layers)

        self.layers.input(
            tick,
            [visitor, self.layers],
            self.picture,
            queue=False,
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
            layers = gr.CheckboxGroup(list(LAYERS), value=list(LAYERS), label="Show", elem_id=f"{name}-layers")
        with gr.Column(min_width=280, scale=3):
            facts = gr.HTML(elem_id=f"{name}-facts")
            command = gr.Textbox(
                label="Draw it again",
                info="the same image; rounding may change single values by one of 255",
                interactive=False,
                lines=3,
                max_lines=12,
                buttons=["copy"],
                elem_id=f"{name}-command",
                elem_classes="ub-command",
            )
    return DetailsPanel(group, layers, picture, facts, command)

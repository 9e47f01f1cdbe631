"""The grid of images that both tabs show: no preview of its own, because a click opens the panel of details."""

import gradio as gr  # pyright: ignore[reportMissingImports]


def image_gallery(elem_id: str, num_columns: int) -> gr.Gallery:
    """An empty gallery. Its images travel as PNG, so that a saved one has the pixels that were drawn."""
    return gr.Gallery(
        show_label=False,
        container=False,
        format="png",
        columns=num_columns,
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
        object_fit="contain",
        elem_id=elem_id,
        elem_classes="ub-gallery",
    )

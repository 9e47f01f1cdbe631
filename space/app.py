"""The Space: draw images of a class, look into datasets, compare bias. Starts on the mini model; see docs/space.md."""

import os
import sys

import ubgen_wheel  # noqa: F401  # before everything that imports ubgen

# before gradio is imported: it reads this once
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from bias_tab import build_bias_tab
from browse_tab import build_browse_tab
from generate_tab import build_generate_tab, restored
from page_html import shown_text
from request_limits import DrawRequest
from sampler import Cancellation, DrawnSample, Sampler
from space_settings import SpaceSettings
from visitor import Visitor

try:
    import spaces  # of Hugging Face: lends a GPU for the length of a call  # pyright: ignore[reportMissingImports]
except ImportError:
    spaces = None

GPU_SECONDS = 120
STATE_SECONDS = 3600
LAUNCH_ATTEMPTS = 5
# system fonts: the page loads nothing from elsewhere
THEME = gr.themes.Default(
    primary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
# a page that is left or reloaded gives up its open requests; the browser would call each an error
HEAD = """<script>window.addEventListener("unhandledrejection", event => {
  if (event.reason?.name === "AbortError") event.preventDefault();
});</script>"""
HEADER = """<header class="ub-header"><h1>ubgen</h1>
<p>Class names in, a labelled image dataset with little bias out. Model: <b>{model}</b></p></header>"""


def build_app(settings: SpaceSettings, sampler: Sampler) -> gr.Blocks:
    """The page.

    Args:
        settings: of the operator.
        sampler: the loaded model.

    Raises:
        ValueError: a class list or report that cannot be read.
    """
    classes, defaults = settings.class_choices(), sampler.defaults

    def draw(request: DrawRequest, cancellation: Cancellation) -> Iterator[DrawnSample]:
        yield from sampler.draw(request, cancellation)

    drawing: Callable[[DrawRequest, Cancellation], Iterator[DrawnSample]] = draw
    if spaces is not None:
        drawing = spaces.GPU(duration=GPU_SECONDS)(draw)
    with gr.Blocks(title="ubgen", analytics_enabled=False, delete_cache=(STATE_SECONDS, STATE_SECONDS)) as page:
        visitor = gr.State(Visitor(), time_to_live=STATE_SECONDS)
        gr.HTML(HEADER.format(model=shown_text(settings.shown_model)))
        with gr.Tabs():
            with gr.Tab("Generate", id="generate"):
                controls, start, kept = build_generate_tab(settings, classes, drawing, defaults, visitor)
            # made with the page: a tab that is made when it is opened takes back what is typed into it at once
            with gr.Tab("Browse a dataset", id="browse", render_children=True):
                build_browse_tab(settings, visitor)
            with gr.Tab("Bias", id="bias", render_children=True):
                build_bias_tab(settings, drawing, visitor)

        def restore(values: Any) -> list[Any]:
            return [*restored(settings, classes, defaults, values, len(controls)), gr.update(interactive=True)]

        # not in the queue: it would keep a visitor's page from starting
        page.load(restore, kept, [*controls, start], queue=False, show_progress="hidden", api_visibility="private")
    return page


def launch_app(page: gr.Blocks, settings: SpaceSettings, **options: Any) -> Any:
    """Serve the page: bounded queue, no files but the page's own, no uploads to speak of, nothing of the API shown."""
    page.queue(max_size=settings.max_queue, default_concurrency_limit=8, api_open=False)
    for attempt in range(1, LAUNCH_ATTEMPTS + 1):
        try:
            return page.launch(
                theme=THEME,
                css_paths=Path(__file__).with_name("style.css"),
                head=HEAD,
                footer_links=[],
                ssr_mode=False,
                share=False,
                allowed_paths=[],
                max_file_size="1kb",
                state_session_capacity=256,
                **options,
            )
        except ValueError as error:
            # Gradio gives its own server three seconds to answer; on a busy machine that is too few
            if "localhost is not accessible" not in str(error) or attempt == LAUNCH_ATTEMPTS:
                raise
            page.close(verbose=False)


def main() -> int:
    """Load and serve until stopped; 2 for a variable that the operator has to correct."""
    try:
        settings = SpaceSettings.from_environment()
        page = build_app(settings, Sampler(settings))
    except ValueError as error:
        print(f"ubgen space: error: {error}", file=sys.stderr)
        return 2
    launch_app(page, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())

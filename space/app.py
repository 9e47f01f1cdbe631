"""The Space: draw images of a class, look into datasets, compare bias. Starts on the mini model; see docs/space.md."""

import os
import sys

import ubgen_wheel  # noqa: F401  # before everything that imports ubgen

# before gradio is imported: it reads this once
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from bias_tab import build_bias_tab
from browse_tab import build_browse_tab
from draw_endpoint import build_endpoint
from drawn_views import DrawnViews
from generate_tab import Draw, GenerateTab, checked_values, opening_values
from gpu_time import check_gpu_seconds, gpu_seconds
from model_queue import ModelQueue
from page_guard import PageGuard, open_functions
from page_html import shown_text
from request_limits import DrawRequest
from sampler import Cancellation, DrawnSample, Sampler
from space_settings import SpaceSettings
from starlette.middleware import Middleware
from visitor import Visitor

try:
    import spaces  # of Hugging Face: lends a GPU for the length of a call  # pyright: ignore[reportMissingImports]
except ImportError:
    spaces = None

STATE_SECONDS = 3600
MAX_EVENTS = 1000
LAUNCH_ATTEMPTS = 5
# system fonts: the page loads nothing from elsewhere
THEME = gr.themes.Default(
    primary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
# A page that is left or reloaded gives up its open requests; the browser would call each an error. Gradio's picture
# has no text for a screen reader, and a field without a label in sight has none at all.
HEAD = """<script>window.addEventListener("unhandledrejection", event => {
  if (event.reason?.name === "AbortError") event.preventDefault();
});
new MutationObserver(() => {
  for (const image of document.querySelectorAll(".ub-picture img")) {
    const facts = image.closest(".ub-details")?.querySelectorAll(".ub-facts dd") ?? [];
    const text = "The chosen image: " + [...facts].slice(0, 2).map(fact => fact.textContent).join(", ");
    if (image.alt !== text) image.alt = text;
  }
  for (const field of document.querySelectorAll(".ub-command textarea")) {
    if (!field.getAttribute("aria-label")) field.setAttribute("aria-label", "Command that draws the image again");
  }
}).observe(document, {subtree: true, childList: true, attributes: true, attributeFilter: ["src"]});
</script>"""
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
    classes, defaults = sampler.drawable(settings.class_choices()), sampler.defaults
    if left_out := len(settings.class_choices()) - len(classes):
        print(f"ubgen space: {left_out} classes are left out: their names are longer than the model reads", flush=True)

    def draw(request: DrawRequest, cancellation: Cancellation) -> Iterator[DrawnSample]:
        yield from sampler.draw(request, cancellation)

    def seconds(request: DrawRequest, cancellation: Cancellation | None = None) -> int:
        return gpu_seconds(sampler.family, request, sampler.num_pixels)

    drawing: Draw = draw
    if spaces is not None:
        borrowed = spaces.GPU(duration=seconds)(draw)

        def draw_borrowed(request: DrawRequest, cancellation: Cancellation) -> Iterator[DrawnSample]:
            check_gpu_seconds(seconds(request), settings.max_gpu_seconds)
            yield from borrowed(request, cancellation)

        drawing = draw_borrowed
    views = DrawnViews(checked_values(settings, classes, defaults, opening_values(settings, classes, defaults)))
    queue = ModelQueue(settings.max_queue)
    with gr.Blocks(title="ubgen", analytics_enabled=False, delete_cache=(STATE_SECONDS, STATE_SECONDS)) as page:
        visitor = gr.State(Visitor(), time_to_live=STATE_SECONDS)
        gr.HTML(HEADER.format(model=shown_text(settings.shown_model)))
        with gr.Tabs():
            with gr.Tab("Generate", id="generate"):
                generate = GenerateTab(settings, classes, drawing, views, queue, defaults, visitor)
            # made with the page: a tab that is made when it is opened takes back what is typed into it at once
            with gr.Tab("Browse a dataset", id="browse", render_children=True) as tab:
                build_browse_tab(settings, tab, visitor)
            with gr.Tab("Bias", id="bias", render_children=True):
                build_bias_tab(settings, drawing, queue, visitor)
        build_endpoint(settings, classes, drawing, queue, defaults)
        # not in the queue: it would keep a visitor's page from starting
        page.load(
            generate.restore,
            [visitor, generate.kept],
            generate.restored,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )
        opening: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
        page.load(generate.open, visitor, generate.opening_outputs, **opening)
    # a borrowed GPU is borrowed for visitors only: there, the first one draws them
    if spaces is None:
        views.draw_opening(draw)
    return page


def launch_app(page: gr.Blocks, settings: SpaceSettings, **options: Any) -> Any:
    """Serve the page: bounded queues, no files but the page's own, no uploads, and one named endpoint."""
    # requests to the model wait in a line of their own, see model_queue.py
    page.queue(max_size=MAX_EVENTS, default_concurrency_limit=8, api_open=False)
    guard = Middleware(PageGuard, open_functions=lambda: open_functions(page.fns))
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
                # each waiting request takes one of Gradio's places for running events
                max_threads=2 * settings.max_queue + 40,
                app_kwargs={"middleware": [guard]},
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

"""The tab on bias: what a report says, and for the mini world a measurement on a few samples."""

from collections.abc import Iterator
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from bias import bias_html, measure_bias, read_report, report_html
from generate_tab import Draw
from model_queue import ModelQueue
from page_html import status_line
from request_limits import MAX_SEED, whole_number
from run_buttons import busy_buttons, connect_run
from sampler import failure_text
from space_settings import SpaceSettings
from visitor import Visitor

MAX_SAMPLES_PER_CLASS = 8
MEASURED_STEPS = 20


def build_bias_tab(settings: SpaceSettings, draw: Draw, queue: ModelQueue, visitor: gr.State) -> None:
    """Lay the tab out and connect it."""
    report = report_html(read_report(settings.report)) if settings.report is not None else ""
    if settings.is_mini:
        _build_measurement(settings, draw, queue, visitor)
    elif not report:
        text = (
            "No report was given. The built-in measurement reads backgrounds and textures of the mini world; it says"
            " nothing about this model."
        )
        gr.HTML(status_line(text))
    if report:
        gr.HTML(report, elem_id="report")


def _build_measurement(settings: SpaceSettings, draw: Draw, queue: ModelQueue, visitor: gr.State) -> None:
    with gr.Row(equal_height=False, elem_classes="ub-line"):
        per_class = gr.Slider(
            1,
            MAX_SAMPLES_PER_CLASS,
            value=2,
            step=1,
            label="Samples per class",
            scale=3,
            min_width=200,
            elem_id="bias-samples",
        )
        seed = gr.Number(0, step=1, label="Seed", scale=1, min_width=90, elem_id="bias-seed")
        start = gr.Button("Measure", variant="primary", scale=1, min_width=100, elem_id="measure")
        stop = gr.Button("Stop", interactive=False, scale=1, min_width=80, elem_id="bias-stop")
    status = gr.HTML(
        status_line(
            "Draws all ten classes and lets an independent classifier read background and texture off the images."
        ),
        elem_id="bias-status",
    )
    charts = gr.HTML(elem_id="bias-charts")
    variants = tuple(settings.variants)

    def measure(visitor: Visitor, per_class: Any, seed: Any) -> Iterator[list[Any]]:
        try:
            per_class = whole_number("Samples per class", per_class, 1, MAX_SAMPLES_PER_CLASS)
            seed = whole_number("Seed", seed, 0, MAX_SEED)
        except ValueError as error:
            yield [status_line(str(error), kind="error"), gr.skip(), *busy_buttons(False)]
            return
        cancellation = visitor.start_measuring()
        total = 10 * per_class * len(variants)
        yield [status_line(f"Measuring: 0 of {total} images", 0, total, "busy"), "", *busy_buttons(True)]
        progress = None
        try:
            for progress in measure_bias(
                draw,
                cancellation,
                variants=variants,
                samples_per_class=per_class,
                seed=seed,
                num_inference_steps=min(MEASURED_STEPS, settings.max_steps),
                guidance_scale=2.0,
            ):
                text = f"Measuring: {progress.done} of {total} images"
                yield [
                    status_line(text, progress.done, total, "busy"),
                    bias_html(progress, settings.variants),
                    *busy_buttons(True),
                ]
        except Exception as error:
            yield [status_line(failure_text(error), kind="error"), gr.skip(), *busy_buttons(False)]
            return
        done = progress.done if progress else 0
        text = "Measured" if done == total else "Stopped"
        yield [status_line(f"{text}: {done} of {total} images."), gr.skip(), *busy_buttons(False)]

    def cancel(visitor: Visitor) -> None:
        visitor.measuring.is_asked = True

    connect_run(queue, start, stop, status, measure, [visitor, per_class, seed], [status, charts, start, stop], cancel)

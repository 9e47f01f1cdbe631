"""The tab that draws images of a class from the base model, the tuned one, or both at the same seeds."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from details_panel import build_details
from image_gallery import image_gallery
from page_html import status_line
from request_limits import BASE, MAX_GUIDANCE, TUNED, VARIANTS, DrawRequest, ModelDefaults, check_request
from run_buttons import busy_buttons, connect_run
from sampler import Cancellation, DrawnSample, failure_text
from space_settings import SpaceSettings
from visitor import Visitor, item_at

from ubgen_pipeline.prompts.class_prompts import ClassName

Draw = Callable[[DrawRequest, Cancellation], Iterator[DrawnSample]]
TITLES = {BASE: "Base model", TUNED: "Tuned"}
READY = "Choose a class and press Generate."


def build_generate_tab(
    settings: SpaceSettings, classes: dict[str, ClassName], draw: Draw, defaults: ModelDefaults, visitor: gr.State
) -> tuple[list[Any], gr.Button, gr.BrowserState]:
    """Lay the tab out and connect it; returns its controls, the button, and where the browser keeps their values.

    The button is off until the caller turns it on: what is pressed before the page listens would be lost.

    Args:
        settings: limits.
        classes: by the name in the list.
        draw: draws a request's samples in turn.
        defaults: what of the controls the model decides.
        visitor: the page's ``Visitor``.
    """
    has_lora = settings.lora is not None
    variants = list(VARIANTS) if has_lora else ["Base"]
    kept = gr.BrowserState(None, storage_key="ubgen-controls", secret="ubgen")
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=290, elem_classes="ub-controls"):
            class_choice = gr.Dropdown(
                list(classes),
                value=next(iter(classes)),
                label="Class",
                info=f"{len(classes):,} classes; type to search" if len(classes) > 20 else None,
                elem_id="class",
            )
            variant_choice = gr.Radio(variants, value=variants[-1], label="Model", elem_id="variant")
            with gr.Row():
                num_samples = gr.Slider(
                    1,
                    settings.max_samples,
                    value=min(4, settings.max_samples),
                    step=1,
                    label="Samples",
                    elem_id="samples",
                )
            with gr.Row():
                num_steps = gr.Slider(
                    1, settings.max_steps, value=defaults.num_inference_steps, step=1, label="Steps", elem_id="steps"
                )
                guidance = gr.Slider(
                    0,
                    MAX_GUIDANCE,
                    value=defaults.guidance_scale or 0,
                    step=0.5,
                    label="Guidance",
                    visible=defaults.guidance_scale is not None,
                    elem_id="guidance",
                )
            # no limits of Gradio's: it would round, and answer with an error page instead of the status line
            seed = gr.Number(0, step=1, label="Seed", info="the same seed, the same images", elem_id="seed")
            annotate = gr.Checkbox(
                defaults.makes_annotations,
                label="Mask and boxes",
                visible=defaults.makes_annotations,
                elem_id="annotate",
            )
            with gr.Row():
                start = gr.Button("Generate", variant="primary", interactive=False, min_width=110, elem_id="generate")
                stop = gr.Button("Stop", interactive=False, min_width=80, elem_id="stop")
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML(status_line(READY), elem_id="status")
            with gr.Row(equal_height=False, elem_classes="ub-pair"):
                columns, galleries = {}, {}
                for variant, title in TITLES.items():
                    shown = variant in VARIANTS[variants[-1]]
                    with gr.Column(min_width=140, visible=shown) as columns[variant]:
                        gr.HTML(f'<h2 class="ub-title">{title}</h2>', padding=False)
                        galleries[variant] = image_gallery(f"gallery-{variant}", num_columns=2)
            details = build_details("generate")
    controls = [class_choice, variant_choice, num_samples, seed, num_steps, guidance, annotate]

    def buttons(is_busy: bool) -> dict[Any, Any]:
        return dict(zip((start, stop), busy_buttons(is_busy)))

    def generate(visitor: Visitor, *values: Any) -> Iterator[dict[Any, Any]]:
        try:
            request = _checked(settings, classes, defaults, values)
        except ValueError as error:
            yield {status: status_line(str(error), kind="error"), **buttons(False)}
            return
        cancellation = visitor.start_drawing()
        total, started = request.num_images, time.monotonic()
        yield {
            status: status_line(f"Drawing {request.class_name}: 0 of {total}", 0, total, "busy"),
            kept: list(values),
            **{columns[name]: gr.update(visible=name in request.variants) for name in TITLES},
            **{
                gallery: gr.update(value=[], selected_index=None, columns=2 if len(request.variants) > 1 else 4)
                for gallery in galleries.values()
            },
            **buttons(True),
            **details.hidden(),
        }
        done = 0
        try:
            for done, sample in enumerate(draw(request, cancellation), 1):
                visitor.samples.setdefault(sample.variant, []).append(sample)
                left = (time.monotonic() - started) / done * (total - done)
                text = f"Drawing {request.class_name}: {done} of {total}, about {left:.0f} s left"
                yield {
                    status: status_line(text, done, total, "busy"),
                    galleries[sample.variant]: gr.update(value=_items(visitor.samples[sample.variant])),
                }
                # where the model runs in a process of its own, it does not see the wish
                if cancellation.is_asked:
                    break
        except Exception as error:
            yield {status: status_line(failure_text(error), kind="error"), **buttons(False)}
            return
        text = f"{done} images of {request.class_name} in {time.monotonic() - started:.1f} s. Click one for details."
        if done < total:
            text = f"Stopped after {done} of {total} images."
        yield {status: status_line(text), **buttons(False)}

    def cancel(visitor: Visitor) -> str:
        visitor.drawing.is_asked = True
        return f"Stopped after {sum(map(len, visitor.samples.values()))} images."

    def select(variant: str) -> Callable[..., dict[Any, Any]]:
        others = [gallery for name, gallery in galleries.items() if name != variant]

        def choose(visitor: Visitor, event: gr.SelectData) -> dict[Any, Any]:
            visitor.chosen = item_at(visitor.samples.get(variant, []), event.index)
            unselected = {gallery: gr.update(selected_index=None) for gallery in others}
            return {**unselected, **details.shown(visitor, settings)}

        return choose

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    outputs = [status, *columns.values(), *galleries.values(), start, stop, *details.outputs, kept]
    connect_run(start, stop, status, generate, [visitor, *controls], outputs, cancel)
    for variant, gallery in galleries.items():
        outputs = [*galleries.values(), *details.outputs]
        chosen = gallery.select(select(variant), visitor, outputs, **quiet)
        chosen.then(None, js=details.scroll_there)
    details.connect(visitor)
    return controls, start, kept


def restored(
    settings: SpaceSettings, classes: dict[str, ClassName], defaults: ModelDefaults, values: Any, num_controls: int
) -> list[Any]:
    """Values for the controls as the browser kept them, or nothing where they are not within the limits any more."""
    if isinstance(values, list) and len(values) == num_controls:
        try:
            _checked(settings, classes, defaults, values)
            return [gr.update(value=value) for value in values]
        except ValueError:
            pass
    return [gr.skip()] * num_controls


def _checked(
    settings: SpaceSettings, classes: dict[str, ClassName], defaults: ModelDefaults, values: Any
) -> DrawRequest:
    names = (
        "class_choice",
        "variant_choice",
        "num_samples",
        "seed",
        "num_inference_steps",
        "guidance_scale",
        "annotate",
    )
    return check_request(settings, classes, defaults, **dict(zip(names, values)))


def _items(samples: list[DrawnSample]) -> list[tuple[Any, str]]:
    return [(sample.image, f"{sample.variant} {sample.number + 1}") for sample in samples]

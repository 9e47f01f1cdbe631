"""The tab that draws images of a class from the base model, the tuned ones, or several at the same seeds."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from details_panel import build_details
from drawn_views import DrawnViews
from image_gallery import image_gallery
from model_queue import ModelQueue
from page_html import shown_text, status_line
from request_limits import CONTROLS, MAX_GUIDANCE, DrawRequest, ModelDefaults, check_request
from run_buttons import busy_buttons, connect_run
from sampler import Cancellation, DrawnSample, failure_text
from shared_view import WRITE_ADDRESS, values_of_query
from space_settings import SpaceSettings
from visitor import Visitor, item_at

from ubgen_pipeline.prompts.class_prompts import ClassName

Draw = Callable[[DrawRequest, Cancellation], Iterator[DrawnSample]]
READY = "Choose a class and press Generate."
OPENING = "These were drawn when the page was made. Choose a class and press Generate."
BEING_DRAWN = "The first images are being drawn …"
SHARED = "The settings are those of the address: press Generate for its images."
NOT_SHARED = "The address asks for what is not offered here: {error}"
CLICK = "Click one for details."
# the images on the page are of other settings than those that are chosen now
MARK_STALE = "() => document.getElementById('shown')?.classList.add('ub-stale')"
UNMARK_STALE = "() => document.getElementById('shown')?.classList.remove('ub-stale')"
# a phone shows the controls alone, above what they bring about
SCROLL_TO_STATUS = "() => document.getElementById('status')?.scrollIntoView({block: 'nearest', behavior: 'smooth'})"


class GenerateTab:
    """The tab: laid out and connected.

    The button is off until :meth:`restore` turns it on: what is pressed before the page listens would be lost.

    Args:
        settings: limits.
        classes: by the name in the list.
        draw: draws a request's samples in turn.
        views: what was drawn lately.
        queue: in which requests wait for the model.
        defaults: what of the controls the model decides.
        visitor: the page's ``Visitor``.
    """

    def __init__(
        self,
        settings: SpaceSettings,
        classes: dict[str, ClassName],
        draw: Draw,
        views: DrawnViews,
        queue: ModelQueue,
        defaults: ModelDefaults,
        visitor: gr.State,
    ):
        self.settings, self.classes, self.defaults = settings, classes, defaults
        self.draw, self.views = draw, views
        self.begin_with = opening_values(settings, classes, defaults)
        self.kept = gr.BrowserState(None, storage_key="ubgen-controls", secret="ubgen")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=290, elem_classes="ub-controls"):
                self._build_controls()
            with gr.Column(scale=3, min_width=320):
                self._build_results()
        self._connect(queue, visitor)

    def _build_controls(self) -> None:
        settings, defaults = self.settings, self.defaults
        name, variants, num_samples, seed, num_steps, guidance, annotate = self.begin_with
        class_choice = gr.Dropdown(
            list(self.classes),
            value=name,
            label="Class",
            info=f"{len(self.classes):,} classes; type to search" if len(self.classes) > 20 else None,
            elem_id="class",
        )
        choices = [(shown, variant) for variant, shown in settings.variants.items()]
        variant_choice = gr.CheckboxGroup(choices, value=variants, label="Model", elem_id="variant")
        with gr.Row(elem_classes="ub-buttons"):
            self.start = gr.Button("Generate", variant="primary", interactive=False, min_width=110, elem_id="generate")
            self.stop = gr.Button("Stop", interactive=False, min_width=80, elem_id="stop")
        samples = gr.Slider(1, settings.max_samples, value=num_samples, step=1, label="Samples", elem_id="samples")
        with gr.Accordion("Steps, guidance, seed", open=False, elem_id="more"):
            steps = gr.Slider(1, settings.max_steps, value=num_steps, step=1, label="Steps", elem_id="steps")
            guidance_choice = gr.Slider(
                0,
                MAX_GUIDANCE,
                value=guidance,
                step=0.5,
                label="Guidance",
                visible=defaults.guidance_scale is not None,
                elem_id="guidance",
            )
            # no limits of Gradio's: it would round, and answer with an error page instead of the status line
            seed_choice = gr.Number(seed, step=1, label="Seed", info="the same seed, the same images", elem_id="seed")
            masks = gr.Checkbox(
                annotate, label="Mask and boxes", visible=defaults.makes_annotations, elem_id="annotate"
            )
        self.controls = [class_choice, variant_choice, samples, seed_choice, steps, guidance_choice, masks]

    def _build_results(self) -> None:
        self.status = gr.HTML(status_line(READY), elem_id="status")
        self.shown = gr.HTML(elem_id="shown", padding=False)
        with gr.Row(equal_height=False, elem_classes="ub-pair"):
            self.columns, self.galleries = {}, {}
            for variant, shown in self.settings.variants.items():
                with gr.Column(min_width=90, elem_classes="ub-model") as self.columns[variant]:
                    gr.HTML(f'<h2 class="ub-title">{shown_text(shown)}</h2>', padding=False)
                    self.galleries[variant] = image_gallery(f"gallery-{variant}", num_columns=2)
        self.details = build_details("generate")

    def _connect(self, queue: ModelQueue, visitor: gr.State) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        at_once: dict[str, Any] = {"queue": False, **quiet}
        pictures = [*self.columns.values(), *self.galleries.values(), *self.details.outputs]
        outputs = [self.status, self.shown, *pictures, self.start, self.stop, self.kept]
        self.start.click(None, self.controls, js=WRITE_ADDRESS)
        self.start.click(None, js=SCROLL_TO_STATUS)
        connect_run(
            queue, self.start, self.stop, self.status, self._generate, [visitor, *self.controls], outputs, self._cancel
        )
        self.start.click(None, js=UNMARK_STALE)
        for control in self.controls:
            control.input(None, js=MARK_STALE)
        for variant, gallery in self.galleries.items():
            outputs = [*self.galleries.values(), *self.details.outputs]
            chosen = gallery.select(self._select(variant), visitor, outputs, **at_once)
            chosen.then(None, js=self.details.scroll_there)
        self.details.connect(visitor)
        self.opening_outputs = [self.status, self.shown, *pictures]

    def restore(self, request: gr.Request, visitor: Visitor, kept: Any) -> dict[Any, Any]:
        """The page as it begins: the view of its address, or the settings that the browser kept and the first images.

        Its outputs are :attr:`restored`.
        """
        asked = values_of_query(dict(request.query_params), self.begin_with)
        values = kept if asked is None else asked
        update: dict[Any, Any] = {self.start: gr.update(interactive=True)}
        checked = None
        if isinstance(values, list) and len(values) == len(self.controls):
            try:
                checked = self._checked(values)
                shown = dict(zip(CONTROLS, values))
                # each model once
                shown["variant_choice"] = list(checked.variants)
                update |= {control: gr.update(value=shown[name]) for name, control in zip(CONTROLS, self.controls)}
            except ValueError as error:
                if asked is not None:
                    return update | {self.status: status_line(NOT_SHARED.format(error=error), kind="error")}
        if asked is None:
            if samples := self.views.get(self.views.opening):
                return update | self._all(visitor, self.views.opening, samples, OPENING)
            return update | ({self.status: status_line(BEING_DRAWN, kind="busy")} if self.views.is_drawing else {})
        assert checked is not None
        samples = self.views.get(checked)
        return update | (
            self._all(visitor, checked, samples, CLICK) if samples else {self.status: status_line(SHARED)}
        )

    @property
    def restored(self) -> list[Any]:
        """Outputs of :meth:`restore`."""
        return [*self.controls, self.start, *self.opening_outputs]

    async def open(self, request: gr.Request, visitor: Visitor) -> AsyncIterator[dict[Any, Any]]:
        """Shows the images that the page opens with as soon as they are drawn, if it waits for them.

        Its outputs are :attr:`opening_outputs`.
        """
        if self.views.is_drawing and values_of_query(dict(request.query_params), self.begin_with) is None:
            while self.views.is_drawing:
                await asyncio.sleep(0.2)
            samples = self.views.get(self.views.opening)
            # not over what the visitor has asked for meanwhile
            if not visitor.samples and not visitor.running:
                yield (
                    self._all(visitor, self.views.opening, samples, OPENING)
                    if samples
                    else {self.status: status_line(READY)}
                )
                return
        yield {self.status: gr.skip()}

    def _all(
        self, visitor: Visitor, request: DrawRequest, samples: Sequence[DrawnSample], text: str
    ) -> dict[Any, Any]:
        """Updates that show a whole request's images."""
        visitor.samples = {
            variant: [sample for sample in samples if sample.variant == variant] for variant in request.variants
        }
        update = self._emptied(request)
        for variant, own in visitor.samples.items():
            update[self.galleries[variant]] = gr.update(**_grid(request), value=_items(own), selected_index=None)
        return {self.status: status_line(text), **update}

    def _emptied(self, request: DrawRequest) -> dict[Any, Any]:
        """Updates that make room for a request's images."""
        return {
            self.shown: f'<p class="ub-shown">{shown_text(request.described)}</p>',
            **{column: gr.update(visible=name in request.variants) for name, column in self.columns.items()},
            **{
                gallery: gr.update(value=[], selected_index=None, **_grid(request))
                for gallery in self.galleries.values()
            },
            **self.details.hidden(),
        }

    def _buttons(self, is_busy: bool) -> dict[Any, Any]:
        return dict(zip((self.start, self.stop), busy_buttons(is_busy)))

    def _generate(self, visitor: Visitor, *values: Any) -> Iterator[dict[Any, Any]]:
        try:
            request = self._checked(values)
        except ValueError as error:
            yield {self.status: status_line(str(error), kind="error"), **self._buttons(False)}
            return
        cancellation, name = visitor.start_drawing(), request.class_name
        total, started = request.num_images, time.monotonic()
        if samples := self.views.get(request):
            text = f"{_images(total)} of {name}, drawn before. {CLICK}"
            yield {**self._all(visitor, request, samples, text), self.kept: list(values), **self._buttons(False)}
            return
        yield {
            self.status: status_line(f"Drawing {name}: 0 of {total}", 0, total, "busy"),
            self.kept: list(values),
            **self._emptied(request),
            **self._buttons(True),
        }
        done = 0
        try:
            for done, sample in enumerate(self.draw(request, cancellation), 1):
                visitor.samples.setdefault(sample.variant, []).append(sample)
                left = (time.monotonic() - started) / done * (total - done)
                text = f"Drawing {name}: {done} of {total}, about {left:.0f} s left"
                yield {
                    self.status: status_line(text, done, total, "busy"),
                    self.galleries[sample.variant]: gr.update(value=_items(visitor.samples[sample.variant])),
                }
                # where the model runs in a process of its own, it does not see the wish
                if cancellation.is_asked:
                    break
        except Exception as error:
            yield {self.status: status_line(failure_text(error), kind="error"), **self._buttons(False)}
            return
        text = f"{_images(done)} of {name} in {time.monotonic() - started:.1f} s. {CLICK}"
        if done < total:
            text = f"Stopped after {done} of {_images(total)}."
        else:
            self.views.keep(request, [sample for own in visitor.samples.values() for sample in own])
        # all once more: where many updates come at once, a page may have lost one
        filled = {self.galleries[variant]: gr.update(value=_items(own)) for variant, own in visitor.samples.items()}
        yield {self.status: status_line(text), **filled, **self._buttons(False)}

    def _cancel(self, visitor: Visitor) -> None:
        visitor.drawing.is_asked = True

    def _select(self, variant: str) -> Callable[..., dict[Any, Any]]:
        others = [gallery for name, gallery in self.galleries.items() if name != variant]

        def choose(visitor: Visitor, event: gr.SelectData) -> dict[Any, Any]:
            visitor.chosen = item_at(visitor.samples.get(variant, []), event.index)
            unselected = {gallery: gr.update(selected_index=None) for gallery in others}
            return {**unselected, **self.details.shown(visitor, self.settings)}

        return choose

    def _checked(self, values: Sequence[Any]) -> DrawRequest:
        return checked_values(self.settings, self.classes, self.defaults, values)


def opening_values(settings: SpaceSettings, classes: Mapping[str, ClassName], defaults: ModelDefaults) -> list[Any]:
    """Values that the controls begin with: the first class, all models, the model's own steps and guidance."""
    return [
        next(iter(classes)),
        list(settings.variants),
        min(4, settings.max_samples),
        0,
        defaults.num_inference_steps,
        defaults.guidance_scale or 0,
        defaults.makes_annotations,
    ]


def checked_values(
    settings: SpaceSettings, classes: Mapping[str, ClassName], defaults: ModelDefaults, values: Sequence[Any]
) -> DrawRequest:
    """The request that values of the controls, in their order, stand for.

    Raises:
        ValueError: a value outside its limits.
    """
    return check_request(settings, classes, defaults, **dict(zip(CONTROLS, values)))


def _grid(request: DrawRequest) -> dict[str, int]:
    return {"columns": 2 if len(request.variants) > 1 else 4}


def _images(count: int) -> str:
    return f"{count} {'image' if count == 1 else 'images'}"


def _items(samples: Sequence[DrawnSample]) -> list[tuple[Any, str]]:
    return [(sample.image, f"{sample.variant} {sample.number + 1}") for sample in samples]

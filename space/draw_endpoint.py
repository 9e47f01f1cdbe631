"""The named endpoint ``/draw`` for ``gradio_client``: what the page draws, under its limits and in its line."""

import asyncio
from collections.abc import Mapping
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from generate_tab import Draw, checked_values, opening_values
from image_details import image_facts
from model_queue import ModelQueue
from request_limits import ModelDefaults
from run_buttons import in_threads, page_of
from sampler import Cancellation, DrawnSample, failure_text
from space_settings import SpaceSettings

from ubgen_pipeline.prompts.class_prompts import ClassName


def build_endpoint(
    settings: SpaceSettings,
    classes: Mapping[str, ClassName],
    draw: Draw,
    queue: ModelQueue,
    defaults: ModelDefaults,
) -> None:
    """Add the endpoint to the page; nothing of it is seen there."""
    name, variants, _, seed, steps, guidance, _ = opening_values(settings, classes, defaults)

    async def draw_images(
        request: gr.Request,
        class_name: Any,
        models: Any,
        samples: Any,
        seed: Any,
        num_inference_steps: Any,
        guidance_scale: Any,
        annotate: Any,
    ) -> tuple[list[Any], list[dict[str, Any]]]:
        values = [class_name, models, samples, seed, num_inference_steps, guidance_scale, annotate]
        try:
            wanted = checked_values(settings, classes, defaults, values)
            place = queue.join(*page_of(request))
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        cancellation = Cancellation()
        try:
            async for _ in queue.turn(place):
                pass
            drawn = [sample async for sample in in_threads(draw(wanted, cancellation))]
        except asyncio.CancelledError:
            cancellation.is_asked = True
            raise
        except Exception as error:
            raise gr.Error(failure_text(error), print_exception=False) from error
        finally:
            place.leave()
        return [(sample.image, f"{sample.variant} {sample.number + 1}") for sample in drawn], list(map(_facts, drawn))

    hidden: dict[str, Any] = {"visible": False}
    inputs = [
        gr.Textbox(name, label="class_name", **hidden),
        gr.JSON(variants, label="models", **hidden),
        gr.Number(1, label="samples", **hidden),
        gr.Number(seed, label="seed", **hidden),
        gr.Number(steps, label="num_inference_steps", **hidden),
        gr.Number(guidance, label="guidance_scale", **hidden),
        gr.Checkbox(False, label="annotate", **hidden),
    ]
    outputs = [gr.Gallery(format="png", label="images", **hidden), gr.JSON(label="facts", **hidden)]
    gr.Button(**hidden).click(
        draw_images,
        inputs,
        outputs,
        api_name="draw",
        api_description="Draw images of a class; facts has the prompt, the seed and the boxes of each.",
        # requests wait in our own line
        concurrency_limit=None,
        show_progress="hidden",
    )


def _facts(sample: DrawnSample) -> dict[str, Any]:
    facts = {name: value if isinstance(value, int) else str(value) for name, value in image_facts(sample).items()}
    # a seed is longer than the integers of JavaScript
    boxes = None if sample.boxes is None else [[int(value) for value in box] for box in sample.boxes]
    return facts | {"seed": str(sample.seed), "boxes": boxes}

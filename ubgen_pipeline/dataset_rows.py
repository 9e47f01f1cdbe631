"""The rows of a generated dataset: one batch of prompts at a time through the pipeline, image and provenance out."""

import dataclasses
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .annotation_columns import annotation_features, annotation_row
from .caption_prompts import CaptionPlan, ShownPrompt, shown_words
from .dataset_facts import Generator
from .dataset_shards import Shard
from .generate_settings import GenerateSettings, Plan
from .model_sources import public_name
from .source_plan import SourcePlan

if TYPE_CHECKING:
    from datasets import Features

    from .mask_settings import MaskSettings
    from .pipeline import UbGenPipeline


def check_prompts(settings: GenerateSettings, plan: Plan, pipeline: "UbGenPipeline") -> int | None:
    """Refuse prompts that are too long; where they are meant to work, give the chunks that the longest takes.

    That is a number for the whole run, so that an image does not depend on the others of its batch.
    """
    from .drawn_prompts import check_annotated, drawn_prompt, num_shortened

    items, masks = list(plan.prompts()), _mask_settings(settings)
    if masks is not None:
        if plan.allows_long_prompts and not masks.class_prompt:
            raise ValueError("mask_class_prompt is false, which word weights do not work with; leave it out.")
        check_annotated(pipeline, items, masks)
    if num_cut := num_shortened(pipeline, items):
        say(f"{num_cut} of {len(items)} captions are longer than the model reads; their ends are left out")
    prompts = [drawn_prompt(pipeline, item, masks) for item in items]
    if not plan.allows_long_prompts:
        pipeline.check_prompt_lengths(prompts, [item.name for item in items])
        return None
    return pipeline.count_prompt_chunks([settings.negative_prompt or "", *prompts])


def _mask_settings(settings: GenerateSettings) -> "MaskSettings | None":
    """How masks are made; None where no annotation is asked for."""
    from .models import resolve_model

    return settings.mask_settings(resolve_model(settings.model)) if settings.wanted_annotations() else None


def dataset_rows(
    settings: GenerateSettings,
    generator: Generator,
    pipeline: "UbGenPipeline",
    plan: Plan,
    num_chunks: int | None,
    shard: Shard,
    report: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    """The shard's rows, drawn in batches that start with the shard.

    Args:
        num_chunks: what :func:`check_prompts` gave.
        report: called with the number of images made, batch by batch.
    """
    from .drawn_prompts import drawn_prompt

    wanted, masks = settings.wanted_annotations(), _mask_settings(settings)
    for start in range(shard.start, shard.stop, settings.batch_size):
        batch = [plan.sample(index) for index in range(start, min(start + settings.batch_size, shard.stop))]
        prompts = [drawn_prompt(pipeline, sample.prompt, masks) for sample in batch]
        shown = [shown_words(sample.prompt) for sample in batch]
        source_rows = []
        if isinstance(plan, SourcePlan):
            source_rows = plan.rows(batch, pipeline.image_size(settings.height, settings.width))
        output = pipeline(
            [sample.prompt.name for sample in batch],
            prompts=prompts,
            seeds=[sample.seed for sample in batch],
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            negative_prompt=settings.negative_prompt,
            height=settings.height,
            width=settings.width,
            weighted_prompts=num_chunks is not None,
            num_prompt_chunks=num_chunks,
            annotations=wanted,
            shown_classes=[words for words, _ in shown],
            shown_labels=[labels for _, labels in shown],
            # drawn_prompt appended the class words
            mask_settings=dataclasses.replace(masks, append_class_names=False) if masks else None,
            **(plan.arguments(source_rows) if isinstance(plan, SourcePlan) else {}),
        )
        assert not isinstance(output, tuple)
        for position, sample in enumerate(batch):
            png = io.BytesIO()
            output.images[position].save(png, format="PNG")
            row = {
                "image": {"bytes": png.getvalue(), "path": None},
                "label": sample.prompt.label,
                "class_name": sample.prompt.name,
                "prompt": prompts[position],
                "seed": sample.seed,
                "index": sample.index,
                "model": public_name(settings.model),
                "model_revision": generator.model_revision,
                "lora": public_name(settings.lora),
                "lora_revision": generator.lora_revision,
                "num_inference_steps": settings.num_inference_steps,
                "guidance_scale": settings.guidance_scale,
                "scheduler": type(pipeline.scheduler).__name__,
                "negative_prompt": settings.negative_prompt,
            }
            if plan.allows_long_prompts:
                row["num_prompt_chunks"] = num_chunks
            if plan.attribute_names:
                given = dict(sample.prompt.attributes)
                row["attributes"] = {name: given.get(name) for name in plan.attribute_names}
            if output.annotations is not None:
                row |= annotation_row(wanted, output.annotations[position])
            if isinstance(plan, SourcePlan):
                row |= plan.columns(source_rows[position])
            if isinstance(sample.prompt, ShownPrompt):
                row["filename"] = sample.prompt.filename
            if output.nsfw_content_detected is not None:
                row["nsfw_content_detected"] = output.nsfw_content_detected[position]
            yield row
        report(len(batch))


def dataset_features(
    settings: GenerateSettings, plan: Plan, names: Sequence[str], has_safety_checker: bool
) -> "Features":
    """Columns and types of those rows."""
    from datasets import ClassLabel, Features, Image, Value

    columns: dict[str, Any] = {"image": Image(), "label": ClassLabel(names=list(names))}
    columns |= {name: Value("string") for name in ("class_name", "prompt")}
    columns |= {name: Value("int64") for name in ("seed", "index")}
    columns |= {name: Value("string") for name in ("model", "model_revision", "lora", "lora_revision")}
    columns |= {"num_inference_steps": Value("int64"), "guidance_scale": Value("float64")}
    columns |= {name: Value("string") for name in ("scheduler", "negative_prompt")}
    if plan.allows_long_prompts:
        columns["num_prompt_chunks"] = Value("int64")
    if plan.attribute_names:
        columns["attributes"] = {name: Value("string") for name in plan.attribute_names}
    if wanted := settings.wanted_annotations():
        columns |= annotation_features(wanted, names)
    if isinstance(plan, SourcePlan):
        columns |= plan.features()
    if isinstance(plan, CaptionPlan):
        columns["filename"] = Value("string")
    # the checker blackens what it flags, so such rows are marked; without a checker there is nothing to say
    if has_safety_checker:
        columns["nsfw_content_detected"] = Value("bool")
    return Features(columns)


def say(text: str) -> None:
    """A line on stderr, in the command's name."""
    print(f"ubgen: {text}", file=sys.stderr, flush=True)

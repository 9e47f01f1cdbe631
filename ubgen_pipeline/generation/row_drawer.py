"""The rows of a generated dataset: one batch of prompts at a time through the pipeline, image and provenance out."""

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..commands.console import say
from ..dataset.columns import SAFETY_COLUMN, annotation_features, annotation_row, score_features
from ..files.image_codecs import image_encoder
from ..models.sources import GeneratorSource, public_name
from ..samples.caption_samples import CaptionSamples, ShownPrompt, shown_words
from ..samples.source_samples import SourceSamples
from .settings import GenerateSettings, Plan

if TYPE_CHECKING:
    from datasets import Features

    from ..mask_settings import MaskSettings
    from ..pipeline import UbGenPipeline
from typing import TYPE_CHECKING

from ..attention_maps import check_levels
from ..class_tokens import append_class_words, class_token_weights, fit_prompt
from ..mask_settings import MaskSettings
from ..prompts.class_prompts import ClassPrompt

if TYPE_CHECKING:
    from ..pipeline import UbGenPipeline


def drawn_prompt(pipeline: "UbGenPipeline", item: ClassPrompt, settings: MaskSettings | None) -> str:
    """The text that a prompt's image is drawn from.

    Args:
        pipeline: the model that reads it.
        item: the prompt. A caption of a file that is too long loses words at its end, as the tokenizer would cut it,
            but before the class words.
        settings: of the masks; None where no annotation is asked for.
    """
    words, _ = shown_words(item)
    text = item.prompt
    if settings is not None and settings.append_class_names:
        text = append_class_words(text, words)
    if isinstance(item, ShownPrompt):
        text = fit_prompt(pipeline.tokenizer, text, words, pipeline.tokenizer.model_max_length)
    return text


def check_annotated(pipeline: "UbGenPipeline", items: list[ClassPrompt], settings: MaskSettings) -> None:
    """Refuse what masks cannot be made for, before anything is drawn.

    Raises:
        ValueError: a class word that is not where the masks need it, or a level of the settings where the model has
            no attention.
    """
    check_levels(pipeline.denoiser_network, settings.cross_levels, settings.self_level)
    for item in items:
        words, _ = shown_words(item)
        text = drawn_prompt(pipeline, item, settings)
        class_token_weights(pipeline, text, list(dict.fromkeys(words)), settings.class_prompt)


def num_shortened(pipeline: "UbGenPipeline", items: list[ClassPrompt]) -> int:
    """How many prompts lose words."""
    return sum(drawn_prompt(pipeline, item, None) != item.prompt for item in items)


def check_prompts(settings: GenerateSettings, plan: Plan, pipeline: "UbGenPipeline") -> int | None:
    """Refuse prompts that are too long; where they are meant to work, give the chunks that the longest takes.

    That is a number for the whole run, so that an image does not depend on the others of its batch.
    """

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
    from ..models.loading import resolve_model

    return settings.mask_settings(resolve_model(settings.model)) if settings.wanted_annotations() else None


class RowDrawer:
    """Draws batches of samples and gives their rows; several threads may do so at the same time.

    Args:
        settings: of the dataset.
        generator: for the columns.
        pipeline: prepared.
        plan: the samples.
        num_chunks: what :func:`check_prompts` found.
    """

    def __init__(
        self,
        settings: GenerateSettings,
        generator: GeneratorSource,
        pipeline: "UbGenPipeline",
        plan: Plan,
        num_chunks: int | None,
    ):
        self._settings, self._generator, self._plan = settings, generator, plan
        self._pipeline, self._num_chunks = pipeline, num_chunks
        self._masks = _mask_settings(settings)
        from ..inference.image_drawer import ImageDrawer

        self._draw, self._encode = ImageDrawer(pipeline, num_chunks=num_chunks), image_encoder(settings.codec)
        self._scorer = None
        if settings.wanted_scores():
            from ..scoring.image_scorer import ImageScorer

            self._scorer = ImageScorer(
                settings,
                [item.name for item in plan.classes],
                generator=settings.model,
                own_checker=pipeline.safety_checker is not None,
                device=str(pipeline.device),
            )
        # one batch after the other on a GPU: threads that launched at the same time would only mix their kernels
        self._device = Lock() if pipeline.device.type != "cpu" else nullcontext()
        self.is_compiled = False

    def trial(self, batch_size: int) -> object:
        """Draw a batch of one step, to see whether it fits, or to compile."""
        texts = [""] * batch_size
        drawn = self._draw(
            texts, texts, **{**self._sampling(), "num_inference_steps": 1}, seeds=list(range(batch_size))
        )
        return drawn.images()

    def rows(self, indices: range, batch_size: int) -> list[dict[str, Any]]:
        """The rows of those samples, drawn as one batch.

        Args:
            indices: at most ``batch_size`` of them.
            batch_size: that compiled code was made for; a shorter batch is filled up with its last sample.
        """

        settings, plan = self._settings, self._plan
        batch = [plan.sample(index) for index in indices]
        filled = batch + [batch[-1]] * (batch_size - len(batch)) if self.is_compiled else batch
        prompts = [drawn_prompt(self._pipeline, sample.prompt, self._masks) for sample in filled]
        shown = [shown_words(sample.prompt) for sample in filled]
        wanted = settings.wanted_annotations()
        source_rows, source = [], {}
        if isinstance(plan, SourceSamples):
            source_rows = plan.rows(filled, self._pipeline.image_size(settings.height, settings.width))
            source = plan.arguments(source_rows)
        with self._device:
            drawn = self._draw(
                [sample.prompt.name for sample in filled],
                prompts,
                num_samples=len(batch),
                seeds=[sample.seed for sample in filled],
                annotations=wanted,
                shown_classes=[words for words, _ in shown],
                shown_labels=[labels for _, labels in shown],
                # drawn_prompt appended the class words
                mask_settings=dataclasses.replace(self._masks, append_class_names=False) if self._masks else None,
                **self._sampling(),
                **source,
            )
        rows = []
        for position, (sample, image) in enumerate(zip(batch, drawn.images(), strict=True)):
            row = {
                "image": {"bytes": self._encode(image), "path": None},
                "label": sample.prompt.label,
                "class_name": sample.prompt.name,
                "prompt": prompts[position],
                "seed": sample.seed,
                "index": sample.index,
                "model": public_name(settings.model),
                "model_revision": self._generator.model_revision,
                "lora": public_name(settings.lora),
                "lora_revision": self._generator.lora_revision,
                "num_inference_steps": settings.num_inference_steps,
                "guidance_scale": settings.guidance_scale,
                "scheduler": type(self._pipeline.scheduler).__name__,
                "negative_prompt": settings.negative_prompt,
            }
            row |= settings.preset_facts()
            if plan.allows_long_prompts:
                row["num_prompt_chunks"] = self._num_chunks
            if plan.attribute_names:
                given = dict(sample.prompt.attributes)
                row["attributes"] = {name: given.get(name) for name in plan.attribute_names}
            if plan.model_classes:
                row["model_class"] = plan.model_classes.get(sample.prompt.name)
            if drawn.output.annotations is not None:
                row |= annotation_row(wanted, drawn.output.annotations[position])
            if isinstance(plan, SourceSamples):
                row |= plan.columns(source_rows[position])
            if isinstance(sample.prompt, ShownPrompt):
                row["filename"] = sample.prompt.filename
            if drawn.output.nsfw_content_detected is not None:
                row[SAFETY_COLUMN] = drawn.output.nsfw_content_detected[position]
            if self._scorer is not None:
                # of the file, so that a lossy codec's loss counts, and so that a score can be made again
                row |= self._scorer(row["image"]["bytes"], sample.prompt.label, row.get(SAFETY_COLUMN))
            rows.append(row)
        return rows

    def _sampling(self) -> dict[str, Any]:
        names = ("num_inference_steps", "guidance_scale", "negative_prompt", "height", "width")
        return {name: getattr(self._settings, name) for name in names} | self._settings.shortcuts()


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
    columns |= {name: Value("string") for name in settings.preset_facts()}
    if plan.allows_long_prompts:
        columns["num_prompt_chunks"] = Value("int64")
    if plan.attribute_names:
        columns["attributes"] = {name: Value("string") for name in plan.attribute_names}
    if plan.model_classes:
        columns["model_class"] = Value("string")
    if wanted := settings.wanted_annotations():
        columns |= annotation_features(wanted, names)
    if isinstance(plan, SourceSamples):
        columns |= plan.features()
    if isinstance(plan, CaptionSamples):
        columns["filename"] = Value("string")
    # the checker blackens what it flags, so such rows are marked; without a checker there is nothing to say
    if has_safety_checker:
        columns[SAFETY_COLUMN] = Value("bool")
    columns |= score_features(settings.wanted_scores(), names)
    return Features(columns)

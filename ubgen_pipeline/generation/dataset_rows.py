"""The rows of a generated dataset: from a range of samples to images, annotations, scores and where they come from."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..commands.console import say
from ..commands.stopwatch import stage
from ..dataset.columns import (
    BLACK,
    NOT_FINITE_COLUMN,
    REDRAWN,
    SAFETY_COLUMN,
    annotation_features,
    annotation_row,
    score_features,
)
from ..diversity_settings import Cads
from ..files.image_codecs import image_encoder
from ..mask_settings import MaskSettings
from ..models.loading import resolve_model
from ..models.loras import as_loras, is_plain
from ..prompt_weights import has_weights
from ..samples.sample import Sample, Samples
from .row_drawer import RowDrawer, drawn_prompt
from .settings import GenerateSettings

if TYPE_CHECKING:
    from datasets import Features

    from ..inference.image_drawer import DrawnImages
    from ..pipeline import UbGenPipeline


_FATES = {REDRAWN: "drawn again in float32", BLACK: "it stays black, and is marked where rows have a column for that"}


def check_prompts(settings: GenerateSettings, samples: Samples, pipeline: "UbGenPipeline") -> int | None:
    """Refuse prompts that are too long; where they are meant to work, give the chunks that the longest takes.

    That is a number for the whole run, so that an image does not depend on the others of its batch.

    Raises:
        ValueError: a prompt that is too long, or may hold word weights that the model does not read; a class word
            that is not where the masks need it, or a level of the mask settings where the model has no attention.
    """
    items, masks = list(samples.prompts()), _mask_settings(settings)
    in_chunks = samples.allows_long_prompts and pipeline.has_word_weights
    if not pipeline.has_word_weights:
        _refuse_weights([item.prompt for item in items if item.weighted], settings.negative_prompt, pipeline)
    if masks is not None and in_chunks and not masks.class_prompt:
        raise ValueError("mask_class_prompt is false, which word weights do not work with; leave it out.")
    texts = [drawn_prompt(pipeline, item, masks) for item in items]
    if masks is not None:
        pipeline.mask_attention.check(masks)
        for item, text in zip(items, texts, strict=True):
            pipeline.mask_attention.check_words(text, list(dict.fromkeys(item.shown_words)), masks)
    if num_cut := sum(item.is_cut_to_fit and drawn_prompt(pipeline, item, None) != item.prompt for item in items):
        say(f"{num_cut} of {len(items)} captions are longer than the model reads; their ends are left out")
    if not in_chunks:
        pipeline.check_prompt_lengths(texts, [item.name for item in items])
        return None
    return pipeline.count_prompt_chunks([settings.negative_prompt or "", *texts])


def _refuse_weights(prompts: Sequence[str], negative_prompt: str | None, pipeline: "UbGenPipeline") -> None:
    """Raise ``ValueError`` where a prompt that is read for weights has any, or the text that they are guided from."""
    for text in (*prompts, *([negative_prompt] if prompts and negative_prompt else [])):
        if has_weights(text):
            raise ValueError(
                f"the prompt {text!r} has word weights, which {type(pipeline).__name__} does not read; leave them out,"
                " or give a model whose text encoder is CLIP. Parentheses and signs that are plain text need"
                " `weights: false` in the file."
            )


class DatasetRows:
    """Gives the rows of a dataset's samples, batch by batch; several threads may ask at the same time.

    Args:
        settings: of the dataset.
        samples: those that the settings stand for.
        drawer: draws them.
    """

    def __init__(self, settings: GenerateSettings, samples: Samples, drawer: RowDrawer):
        self._settings, self._samples, self._drawer = settings, samples, drawer
        self._wanted, self._masks = settings.wanted_annotations(), _mask_settings(settings)
        self.encode = image_encoder(settings.codec)
        self._scorer = None
        if settings.wanted_scores():
            from ..scoring.image_scorer import ImageScorer

            self._scorer = ImageScorer(
                settings,
                [item.name for item in samples.classes],
                generator=settings.model,
                own_checker=drawer.pipeline.safety_checker is not None,
                device=str(drawer.pipeline._execution_device),
            )
        self.is_compiled = False
        # datasets that an earlier version began have no column for that
        self.marks_not_finite = False

    def texts(self, indices: Iterable[int]) -> list[str]:
        """What the model reads for the samples with these indices, in their order."""
        pipeline = self._drawer.pipeline
        return [drawn_prompt(pipeline, self._samples.sample(index).prompt, self._masks) for index in indices]

    def trial(self, batch_size: int) -> object:
        """Draw a batch of one step, to see whether it fits, or to compile."""
        texts = [""] * batch_size
        return self._drawer.draw(texts, texts, list(range(batch_size)), num_inference_steps=1).images()

    def rows(self, indices: range, batch_size: int) -> list[dict[str, Any]]:
        """The rows of the samples with these indices, drawn as one batch.

        Args:
            indices: at most ``batch_size`` of them.
            batch_size: that compiled code was made for; a shorter batch is filled up with its last sample.
        """
        samples, pipeline = self._samples, self._drawer.pipeline
        batch = [samples.sample(index) for index in indices]
        filled = batch + [batch[-1]] * (batch_size - len(batch)) if self.is_compiled else batch
        texts = [drawn_prompt(pipeline, sample.prompt, self._masks) for sample in filled]
        inputs = samples.inputs(filled, pipeline.image_size(self._settings.height, self._settings.width))
        drawn = self._drawer.draw(
            [sample.prompt.name for sample in filled],
            texts,
            [sample.seed for sample in filled],
            num_samples=len(batch),
            **self._annotating(filled),
            **inputs.arguments,
        )
        rows, shared, finite = [], self._drawer.columns(), drawn.finite()
        if samples.allows_long_prompts:
            # a model without word weights reads each prompt as a whole
            shared.setdefault("num_prompt_chunks", None)
        for position, (sample, image) in enumerate(zip(batch, drawn.images(), strict=True)):
            prompt, output, place, mark = sample.prompt, drawn.output, position, None
            if not finite[position]:
                again = self._draw_again(sample, texts[position], batch_size)
                mark = BLACK
                if again is not None and again.finite()[0]:
                    image, output, place, mark = again.images()[0], again.output, 0, REDRAWN
                say(f"the image of index {sample.index} is not finite: {_FATES[mark]}")
            with stage("writing"):
                data = self.encode(image)
            row = {
                "image": {"bytes": data, "path": None},
                "label": prompt.label,
                "class_name": prompt.name,
                "prompt": texts[position],
                "seed": sample.seed,
                "index": sample.index,
                **shared,
                **inputs.columns[position],
            }
            if samples.attribute_names:
                given = dict(prompt.attributes)
                row["attributes"] = {name: given.get(name) for name in samples.attribute_names}
            if samples.model_classes:
                row["model_class"] = samples.model_classes.get(prompt.name)
            if self.marks_not_finite:
                row[NOT_FINITE_COLUMN] = mark
            if output.annotations is not None:
                found = output.annotations[place]
                row |= annotation_row(self._wanted, found.ignored() if mark == BLACK else found)
            if output.nsfw_content_detected is not None:
                row[SAFETY_COLUMN] = output.nsfw_content_detected[place] and mark != BLACK
            if self._scorer is not None:
                # the stored file is scored, so that a codec's loss counts and the score can be made again later
                row |= self._scorer(row["image"]["bytes"], prompt.label, row.get(SAFETY_COLUMN))
            rows.append(row)
        return rows

    def _draw_again(self, sample: Sample, text: str, batch_size: int) -> "DrawnImages | None":
        """One sample by itself, in float32; None where that is not possible."""
        samples, pipeline = self._samples, self._drawer.pipeline
        batch = [sample] * (batch_size if self.is_compiled else 1)
        inputs = samples.inputs(batch, pipeline.image_size(self._settings.height, self._settings.width))
        return self._drawer.draw_again(
            [item.prompt.name for item in batch],
            [text] * len(batch),
            [item.seed for item in batch],
            num_samples=1,
            **self._annotating(batch),
            **inputs.arguments,
        )

    def _annotating(self, batch: Sequence[Sample]) -> dict[str, Any]:
        return {
            "annotations": self._wanted,
            "shown_classes": [sample.prompt.shown_words for sample in batch],
            "shown_labels": [sample.prompt.shown_labels for sample in batch],
            # the texts have the class words already, from drawn_prompt
            "mask_settings": dataclasses.replace(self._masks, append_class_names=False) if self._masks else None,
        }


def dataset_features(
    settings: GenerateSettings,
    samples: Samples,
    names: Sequence[str],
    has_safety_checker: bool,
    *,
    marks_not_finite: bool = True,
) -> "Features":
    """Columns and types of those rows.

    Args:
        settings: of the dataset.
        samples: those that the settings stand for.
        names: of the classes, in label order.
        has_safety_checker: whether the model has one, which then flags images while they are drawn.
        marks_not_finite: whether rows say which images were not finite; not in datasets of earlier versions.
    """
    from datasets import ClassLabel, Features, Image, List, Value

    columns: dict[str, Any] = {"image": Image(), "label": ClassLabel(names=list(names))}
    columns |= {name: Value("string") for name in ("class_name", "prompt")}
    columns |= {name: Value("int64") for name in ("seed", "index")}
    columns |= {name: Value("string") for name in ("model", "model_revision")}
    loras = as_loras(settings.lora)
    text = Value("string") if is_plain(loras) else List(Value("string"))
    columns |= {"lora": text, "lora_revision": text}
    if not is_plain(loras):
        columns["lora_strength"] = List(Value("float64"))
    columns |= {"num_inference_steps": Value("int64"), "guidance_scale": Value("float64")}
    if settings.true_cfg_scale is not None:
        columns["true_cfg_scale"] = Value("float64")
    columns |= {name: Value("string") for name in ("scheduler", "negative_prompt")}
    if settings.preset is not None:
        columns |= {name: Value("string") for name in ("preset", "few_step_lora")}
        if not is_plain(as_loras(settings.few_step_lora)):
            columns["few_step_lora_strength"] = Value("float64")
    if settings.diversity is not None:
        numbers = {item.name: Value("float64") for item in dataclasses.fields(Cads)}
        columns["diversity"] = {"method": Value("string"), **numbers}
    if settings.guidance_interval is not None:
        columns["guidance_interval"] = List(Value("float64"))
    if samples.allows_long_prompts:
        columns["num_prompt_chunks"] = Value("int64")
    if samples.attribute_names:
        columns["attributes"] = {name: Value("string") for name in samples.attribute_names}
    if samples.model_classes:
        columns["model_class"] = Value("string")
    if marks_not_finite:
        columns[NOT_FINITE_COLUMN] = Value("string")
    if wanted := settings.wanted_annotations():
        columns |= annotation_features(wanted, names)
    columns |= samples.features()
    # the checker blackens the images that it flags, so the column says which; without a checker there is no column
    if has_safety_checker:
        columns[SAFETY_COLUMN] = Value("bool")
    columns |= score_features(settings.wanted_scores(), names)
    return Features(columns)


def _mask_settings(settings: GenerateSettings) -> MaskSettings | None:
    """How masks are made; None where no annotation is asked for."""
    return settings.mask_settings(resolve_model(settings.model)) if settings.wanted_annotations() else None

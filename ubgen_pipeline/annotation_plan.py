"""What a call of the pipeline annotates its images with: whose attention is recorded, and what becomes of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .annotations import SampleAnnotation, annotate
from .attention_maps import AttentionRecorder, ClassTexts, joined_texts
from .class_texts import class_texts, shown_once
from .class_tokens import append_class_words
from .mask_settings import MaskSettings


@dataclass(frozen=True)
class AnnotationPlan:
    """How the images of K entries are annotated.

    Attributes:
        settings: how masks are made.
        prompts: what the K entries are drawn from, with class words appended where the settings say so.
        texts: K texts whose attention finds the entry's classes.
        label_rows: K lists, the labels of the classes that an entry's images show.
    """

    settings: MaskSettings
    prompts: list[str]
    texts: list[ClassTexts]
    label_rows: list[list[int]]

    def recorder(
        self, unet: Any, entries: Sequence[int], latent_size: tuple[int, int], num_steps: int
    ) -> AttentionRecorder:
        """Records the attention of a batch, one sample of each of those entries, over so many UNet calls."""
        settings = self.settings
        return AttentionRecorder(
            unet,
            joined_texts([self.texts[entry] for entry in entries]),
            latent_size,
            cross_levels=settings.cross_levels,
            self_level=settings.self_level if settings.self_power else None,
            steps=settings.recorded_steps(num_steps),
        )

    def annotate(
        self, recorder: AttentionRecorder, entries: Sequence[int], size: tuple[int, int], blackened: Sequence[bool]
    ) -> list[SampleAnnotation]:
        """Annotations of that batch's images of ``size`` (H, W); ``blackened`` may be empty."""
        label_rows = [self.label_rows[entry] for entry in entries]
        return annotate(recorder.result(), self.settings, size, label_rows, blackened or None)


def annotation_plan(
    pipeline: Any,
    class_names: Sequence[str],
    prompts: Sequence[str],
    settings: MaskSettings,
    shown_classes: Sequence[Sequence[str]] | None,
    shown_labels: Sequence[Sequence[int]] | None,
    *,
    weighted: bool,
) -> AnnotationPlan:
    """The plan for K entries; see the pipeline's call for its arguments.

    Raises:
        ValueError: settings that do not go with word weights, or classes that do not fit the entries or their prompts.
    """
    if weighted and not settings.class_prompt:
        raise ValueError("mask_settings.class_prompt is False, which word weights do not work with; leave it.")
    shown, label_rows = shown_once(class_names, shown_classes, shown_labels)
    prompts = list(prompts)
    if settings.append_class_names:
        prompts = [append_class_words(prompt, words) for prompt, words in zip(prompts, shown)]
    texts = [class_texts(pipeline, *pair, settings.class_prompt) for pair in zip(prompts, shown)]
    return AnnotationPlan(settings, prompts, texts, label_rows)

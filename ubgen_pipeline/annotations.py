"""Everything that is known about one generated image beside its class: masks, objects, heat maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .attention_maps import AttentionRecorder, ClassTexts, RecordedAttention, joined_texts
from .attention_masks import attention_mask, heat_maps
from .class_tokens import append_class_words, class_texts, shown_once
from .mask_regions import MaskObject, mask_objects
from .mask_settings import IGNORE_LABEL, MaskSettings

MAX_LABELS = IGNORE_LABEL - 1


@dataclass(frozen=True)
class SampleAnnotation:
    """The annotation of one image of H x W pixels.

    Attributes:
        labels: the K labels (from 0) of the classes it was asked to show.
        mask: ``(H, W)`` uint8; 0 background, label + 1, 255 ignore.
        confidence: ``(H, W)`` float32 in [0, 1], how sure each pixel's value is.
        heat_maps: ``(K, H, W)`` float32 in [0, 1], in the order of ``labels``.
        objects: the mask's connected regions; an object's ``value`` is its label + 1.
    """

    labels: list[int]
    mask: np.ndarray
    confidence: np.ndarray
    heat_maps: np.ndarray
    objects: list[MaskObject]

    @property
    def boxes(self) -> np.ndarray:
        """``(N, 4)`` int64, the objects' boxes (x0, y0, x1, y1), end exclusive."""
        return np.array([item.box for item in self.objects], dtype=np.int64).reshape(-1, 4)


def annotate(
    recorded: RecordedAttention,
    settings: MaskSettings,
    size: tuple[int, int],
    labels: Sequence[Sequence[int]],
    blackened: Sequence[bool] | None = None,
) -> list[SampleAnnotation]:
    """Annotations of B images of ``size`` (H, W) from their recorded attention.

    Args:
        recorded: attention of B samples.
        settings: how masks are made.
        size: (H, W) of the images.
        labels: for each sample its classes' labels, each in [0, 253]; maps beyond their number are not read.
        blackened: which images the safety checker blackened: their masks are ignored whole and hold no object.

    Raises:
        ValueError: a label that a mask of eight bits cannot hold.
    """
    highest = max(max(row) for row in labels)
    if highest >= MAX_LABELS:
        raise ValueError(
            f"a class has label {highest}; masks of eight bits hold {MAX_LABELS} classes beside background and ignore."
            " Generate fewer classes, or ask for heatmap alone."
        )
    all_maps = heat_maps(recorded, settings, size).cpu().numpy()
    annotations = []
    for row, maps in enumerate(all_maps):
        own = list(labels[row])
        found = attention_mask(maps[: len(own)], settings)
        # value k + 1 of the sample's own classes becomes label + 1; ignore stays
        values = np.arange(256, dtype=np.uint8)
        values[1 : len(own) + 1] = np.asarray(own) + 1
        mask = values[found.mask]
        if blackened is not None and blackened[row]:
            mask = np.full_like(mask, IGNORE_LABEL)
        objects = mask_objects(mask, found.confidence, settings.min_area)
        annotations.append(SampleAnnotation(own, mask, found.confidence, found.heat_maps, objects))
    return annotations


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

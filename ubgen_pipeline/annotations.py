"""Everything that is known about one generated image beside its class: masks, objects, heat maps."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .attention_maps import RecordedAttention
from .attention_masks import attention_mask, heat_maps
from .call_arguments import SampleBatch
from .class_tokens import append_class_words, shown_once
from .mask_attention import Recorder
from .mask_regions import MaskObject, mask_objects
from .mask_settings import IGNORE_LABEL, MaskSettings
from .sampling_features import FinishedBatch, SamplingFeature, Walk

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

    def ignored(self) -> "SampleAnnotation":
        """That of an image which shows nothing: its mask is ignored whole, and holds no object."""
        mask = np.full_like(self.mask, IGNORE_LABEL)
        return SampleAnnotation(self.labels, mask, np.zeros_like(self.confidence), np.zeros_like(self.heat_maps), [])

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


class AttentionAnnotations(SamplingFeature):
    """Records the attention of each batch and makes the annotations of its images from it.

    Args:
        settings: how masks are made.
        prompts: what the K entries are drawn from, with class words appended where the settings say so.
        texts: K, whose attention finds the entries' classes: see :meth:`.MaskAttention.texts`.
        label_rows: K lists, the labels of the classes that an entry's images show.
        size: (H, W) of the images.
    """

    def __init__(
        self,
        settings: MaskSettings,
        prompts: list[str],
        texts: list[Any],
        label_rows: list[list[int]],
        size: tuple[int, int],
    ):
        self.settings, self.prompts, self._size = settings, prompts, size
        self._texts, self._label_rows = texts, label_rows
        self._entries: list[int] = []
        self._recorder: Recorder | None = None
        self._recording = ExitStack()

    def start(self, pipeline: Any, batch: SampleBatch, walk: Walk) -> Walk:
        self._entries = batch.entries
        recorder = pipeline.mask_attention.recorder(
            [self._texts[entry] for entry in batch.entries],
            (walk.latents.shape[-2], walk.latents.shape[-1]),
            self.settings,
            len(walk.timesteps),
        )
        self._recording.enter_context(recorder)
        self._recorder = recorder
        return walk

    def stop(self) -> None:
        self._recording.close()

    def finish(self, pipeline: Any, finished: FinishedBatch) -> FinishedBatch:
        assert self._recorder is not None
        # of images that a callback left unfinished, perhaps before any step that is recorded
        if getattr(pipeline, "interrupt", False):
            return finished
        label_rows = [self._label_rows[entry] for entry in self._entries]
        recorded = self._recorder.result()
        annotations = annotate(recorded, self.settings, self._size, label_rows, finished.flagged or None)
        return replace(finished, annotations=annotations)


def attention_annotations(
    pipeline: Any,
    class_names: Sequence[str],
    prompts: Sequence[str],
    settings: MaskSettings,
    shown_classes: Sequence[Sequence[str]] | None,
    shown_labels: Sequence[Sequence[int]] | None,
    *,
    weighted: bool,
    size: tuple[int, int],
) -> AttentionAnnotations:
    """The annotations of K entries' images of ``size`` (H, W); see the pipeline's call for the other arguments.

    Raises:
        ValueError: settings that do not go with word weights, or classes that do not fit the entries or their prompts.
    """
    if weighted and not settings.class_prompt:
        raise ValueError("mask_settings.class_prompt is False, which word weights do not work with; leave it.")
    attention = pipeline.mask_attention
    attention.check(settings)
    shown, label_rows = shown_once(class_names, shown_classes, shown_labels)
    prompts = list(prompts)
    if settings.append_class_names:
        prompts = [append_class_words(prompt, words) for prompt, words in zip(prompts, shown)]
    texts = [attention.texts(*pair, settings) for pair in zip(prompts, shown)]
    return AttentionAnnotations(settings, prompts, texts, label_rows, size)

"""Annotators: from an image to its mask and objects, by a trained segmenter or detector that is already loaded.

``build_annotator.py`` finds the one for a model's name. A table ``(M,)`` has 1 + label for each class of the model, 0
for one that the dataset does not have, which is background.

Shapes: an image of H x W pixels, M classes of the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from ..files.image_codecs import rgb_image
from ..mask_regions import MaskObject, mask_objects, region_box
from ..mask_settings import IGNORE_LABEL
from ..models.segmenter import PIXEL_MEAN, PIXEL_STD
from .phrase_boxes import PhraseBoxes
from .phrases import Phrases


@dataclass(frozen=True)
class Labelling:
    """What a model found in one image.

    ``mask (H, W)`` uint8: 0 background, 1 + label, 255 ignore; None from a detector without a mask model. ``objects``
    are the boxes; an object's ``value`` is 1 + label.
    """

    mask: np.ndarray | None
    objects: list[MaskObject]


class Annotator(Protocol):
    """Labels one image; ``own_label`` tells it which class alone may be in it."""

    def __call__(self, image: Image.Image, own_label: int | None = None) -> Labelling: ...


class PixelAnnotator:
    """Masks of a segmenter; the probabilities of all model classes that stand for one class add up.

    Where a row's own class is given, other classes of the dataset are ruled out before that. ``objects`` says which
    pixels of a class are one object, see :data:`.settings.OBJECTS`; ``queries`` needs a universal segmenter.
    """

    def __init__(
        self,
        network: Any,
        scores: Any,
        processor: Any,
        table: np.ndarray,
        threshold: float,
        min_area: float,
        device: str,
        objects: str = "regions",
    ):
        self._network, self._scores, self._processor, self._objects = network, scores, processor, objects
        self._table, self._threshold, self._min_area, self._device = table, threshold, min_area, device

    @torch.no_grad()
    def __call__(self, image: Image.Image, own_label: int | None = None) -> Labelling:
        image = rgb_image(image)
        pixels = _pixels(image, self._processor, normalise=self._scores is transformers_scores).to(self._device)
        output = self._network(pixels)
        scores = self._scores(output, image.size[::-1])
        table, scores = torch.from_numpy(self._table), scores[0].cpu()
        if own_label is not None:
            # probabilities given that no other class of the dataset is there
            possible = (table == 0) | (table == 1 + own_label)
            table, scores = table[possible], scores[possible]
        by_model_class = scores.softmax(dim=0)
        if not len(table):
            return Labelling(np.full(image.size[::-1], IGNORE_LABEL, np.uint8), [])
        classes, places = table.unique(return_inverse=True)
        probabilities = torch.zeros(len(classes), *by_model_class.shape[1:]).index_add_(0, places, by_model_class)
        confidence, best = probabilities.max(dim=0)
        mask = torch.where(confidence < self._threshold, IGNORE_LABEL, classes[best]).numpy().astype(np.uint8)
        if self._objects == "regions":
            return Labelling(mask, mask_objects(mask, confidence.numpy(), self._min_area))
        parts = np.zeros(mask.shape, np.int64)
        if self._objects == "queries":
            parts = best_queries(output, mask, self._table)
        return Labelling(mask, _joined_objects(mask, parts, confidence.numpy(), self._min_area))


class BoxAnnotator:
    """Boxes of a detector, and masks in them where there is a model for that; the smaller object lies on top.

    A detector that is told its classes has ``asked``, whose table is ``table``.
    """

    def __init__(
        self,
        network: Any,
        processor: Any,
        asked: Phrases | None,
        table: np.ndarray,
        masks: "MaskFromBoxes | None",
        threshold: float,
        min_area: float,
        device: str,
    ):
        self._network, self._processor, self._asked, self._table = network, processor, asked, table
        self._masks, self._threshold, self._min_area, self._device = masks, threshold, min_area, device

    @torch.no_grad()
    def __call__(self, image: Image.Image, own_label: int | None = None) -> Labelling:
        image = rgb_image(image)
        size = image.size[::-1]
        objects = []
        for value, score, box in self._detect(image):
            x0, y0, x1, y1 = _inside(box, size)
            is_other = value > 0 and own_label is not None and value != 1 + own_label
            if value == 0 or is_other:
                continue
            if (area := (x1 - x0) * (y1 - y0)) < self._min_area * size[0] * size[1]:
                continue
            region = np.zeros(size, bool)
            region[y0:y1, x0:x1] = True
            objects.append(MaskObject(value, (x0, y0, x1, y1), area, score, region))
        if self._asked is not None and self._asked.denied:
            objects = self._asked.settle(objects)
        if self._masks is None or not objects:
            return Labelling(None if self._masks is None else np.zeros(size, np.uint8), objects)
        found = [
            MaskObject(item.value, region_box(region), int(region.sum()), item.score, region)
            for item, region in zip(objects, self._masks(image, [item.box for item in objects]))
            if region.any()
        ]
        mask = np.zeros(size, np.uint8)
        for item in sorted(found, key=lambda item: -item.area):
            mask[item.region] = item.value
        return Labelling(mask, found)

    def _detect(self, image: Image.Image) -> list[tuple[int, float, list[float]]]:
        """Value, score and box (x0, y0, x1, y1) of what was found."""
        size = [image.size[::-1]]
        if isinstance(self._processor, PhraseBoxes):
            found = self._processor(image, self._threshold)
            return [(int(self._table[phrase]), score, box) for phrase, score, box in found]
        if self._asked is None:
            inputs = self._processor(images=image, return_tensors="pt").to(self._device)
            found = self._processor.post_process_object_detection(
                self._network(**inputs), threshold=self._threshold, target_sizes=size
            )[0]
            values = [int(self._table[label]) for label in found["labels"].tolist()]
        else:
            asked = self._asked.asked
            inputs = self._processor(images=image, text=[asked], return_tensors="pt").to(self._device)
            found = self._processor.post_process_grounded_object_detection(
                self._network(**inputs), threshold=self._threshold, target_sizes=size, text_labels=[asked]
            )[0]
            values = [int(self._table[asked.index(word)]) if word in asked else 0 for word in found["text_labels"]]
        return list(zip(values, found["scores"].tolist(), found["boxes"].tolist()))


class MaskFromBoxes:
    """Masks of the things in boxes, by a promptable segmenter (Kirillov et al. 2023).

    Args:
        network: SAM or its like, on ``device``.
        processor: its own.
        device: where it runs.
    """

    def __init__(self, network: Any, processor: Any, device: str):
        self._network, self._processor, self._device = network, processor, device

    @torch.no_grad()
    def __call__(self, image: Image.Image, boxes: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """One ``(H, W)`` bool per box (x0, y0, x1, y1)."""
        given = [[[float(side) for side in box] for box in boxes]]
        inputs = self._processor(images=image, input_boxes=given, return_tensors="pt").to(self._device)
        output = self._network(**inputs, multimask_output=False)
        # the first SAM pads images to a square, later ones stretch them
        sizes = [inputs[name].cpu() for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
        masks = self._processor.post_process_masks(output.pred_masks.cpu(), *sizes)[0]
        return [mask[0].numpy().astype(bool) for mask in masks]


def transformers_scores(output: Any, size: Sequence[int]) -> torch.Tensor:
    """Logits ``(B, M, H, W)``, up to a constant for each pixel, of a semantic or universal segmenter's output."""
    if hasattr(output, "masks_queries_logits"):
        masks = _resized(output.masks_queries_logits.float(), size).sigmoid()
        classes = output.class_queries_logits.float().softmax(dim=-1)[..., :-1]
        return torch.einsum("bqc,bqhw->bchw", classes, masks).clamp_min(1e-6).log()
    return _resized(output.logits.float(), size)


def best_queries(output: Any, mask: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The query of a universal segmenter that says most surely what the mask says, at each pixel: ``(H, W)`` int64.

    Args:
        output: of the network, for one image.
        mask: ``(H, W)`` uint8 that was made from it.
        table: ``(M,)``, see above.
    """
    classes = output.class_queries_logits[0].float().cpu().softmax(dim=-1)
    # queries that found nothing only blur the borders of those that did
    found = classes.argmax(dim=-1) < classes.shape[-1] - 1
    kept = torch.nonzero(found)[:, 0] if found.any() else torch.arange(len(found))
    shares = _resized(output.masks_queries_logits.float().cpu(), mask.shape)[0].sigmoid()[kept]
    best = torch.zeros(mask.shape, dtype=torch.int64)
    for value in np.setdiff1d(np.unique(mask), (0, IGNORE_LABEL)):
        sure = classes[kept, :-1][:, torch.from_numpy(table == value)].sum(dim=1)
        here = torch.from_numpy(mask == value)
        best[here] = kept[(sure[:, None] * shares[:, here]).argmax(dim=0)]
    return best.numpy()


def _joined_objects(mask: np.ndarray, parts: np.ndarray, confidence: np.ndarray, min_area: float) -> list[MaskObject]:
    """An object for each pair of a class and a number in ``parts``, whether it is connected or not, by class."""
    objects = []
    for value in np.setdiff1d(np.unique(mask), (0, IGNORE_LABEL)):
        for part in np.unique(parts[mask == value]):
            region = (mask == value) & (parts == part)
            if (area := int(region.sum())) >= min_area * mask.size:
                score = float(confidence[region].mean())
                objects.append(MaskObject(int(value), region_box(region), area, score, region))
    return objects


def _pixels(image: Image.Image, processor: Any, *, normalise: bool) -> torch.Tensor:
    if processor is not None:
        return processor(images=image, return_tensors="pt")["pixel_values"]
    pixels = torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)
    if normalise:
        pixels = (pixels - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(PIXEL_STD)[:, None, None]
    return pixels[None]


def _inside(box: Sequence[float], size: Sequence[int]) -> tuple[int, int, int, int]:
    """The whole pixels that a box touches, inside the image."""
    height, width = size
    x0, y0, x1, y1 = box
    return (
        int(min(max(np.floor(x0), 0), width)),
        int(min(max(np.floor(y0), 0), height)),
        int(min(max(np.ceil(x1), 0), width)),
        int(min(max(np.ceil(y1), 0), height)),
    )


def _resized(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return torch.nn.functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)

"""The dataset columns of annotations.

classes      labels of all classes that the image was asked to show
mask         PNG, 8 bits: 0 background, label + 1, 255 ignore
confidence   PNG, 8 bits: 255 times how sure each pixel's value is
heatmaps     one PNG of 8 bits for each of ``classes``: 255 times its score
instances    PNG, 8 bits (16 for more than 255 objects): 0 nothing, i + 1 object i
objects      of each object: bbox (x, y, width, height), category, area in pixels, score, and polygons
"""

import io
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from ..annotations import SampleAnnotation


def annotation_features(wanted: Collection[str], names: Sequence[str]) -> dict[str, Any]:
    """The columns' ``datasets`` features.

    Args:
        wanted: annotations, as :func:`.mask_settings.check_annotations` gives them.
        names: of the classes, in the order of their labels.
    """
    from datasets import ClassLabel, List, Value
    from datasets import Image as ImageFeature

    columns: dict[str, Any] = {"classes": List(ClassLabel(names=list(names)))}
    for annotation, column in (("mask", "mask"), ("confidence", "confidence"), ("instance", "instances")):
        if annotation in wanted:
            columns[column] = ImageFeature()
    if "heatmap" in wanted:
        columns["heatmaps"] = List(ImageFeature())
    if _has_objects(wanted):
        columns["objects"] = {
            "bbox": List(List(Value("int64"), length=4)),
            "category": List(ClassLabel(names=list(names))),
            "area": List(Value("int64")),
            "score": List(Value("float32")),
        }
        if "polygon" in wanted:
            columns["objects"]["polygons"] = List(List(List(Value("float32"))))
    return columns


def annotation_row(wanted: Collection[str], annotation: "SampleAnnotation") -> dict[str, Any]:
    """The columns' values for one image, as :func:`annotation_features` describes them."""
    from ..mask_regions import instance_mask, region_polygons

    row: dict[str, Any] = {"classes": list(annotation.labels)}
    if "mask" in wanted:
        row["mask"] = _png(annotation.mask)
    if "confidence" in wanted:
        row["confidence"] = _png(_as_bytes(annotation.confidence))
    if "instance" in wanted:
        instances = instance_mask(annotation.objects, annotation.mask.shape)
        row["instances"] = _png(instances if len(annotation.objects) > 255 else instances.astype(np.uint8))
    if "heatmap" in wanted:
        row["heatmaps"] = [_png(_as_bytes(heat_map)) for heat_map in annotation.heat_maps]
    if _has_objects(wanted):
        objects = annotation.objects
        boxes = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (item.box for item in objects)]
        row["objects"] = {
            "bbox": [list(box) for box in boxes],
            "category": [item.value - 1 for item in objects],
            "area": [item.area for item in objects],
            "score": [item.score for item in objects],
        }
        if "polygon" in wanted:
            row["objects"]["polygons"] = [region_polygons(item.region) for item in objects]
    return row


def _has_objects(wanted: Collection[str]) -> bool:
    return "box" in wanted or "polygon" in wanted or "instance" in wanted


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 255).astype(np.uint8)


def _png(pixels: np.ndarray) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": None}

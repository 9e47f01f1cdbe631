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
from collections.abc import Mapping


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


CLIP_COLUMNS = ("clip_score", "zero_shot_label", "zero_shot_probability")
HASH_COLUMN = "perceptual_hash"
GROUP_COLUMN = "duplicate_group"
SAFETY_COLUMN = "nsfw_content_detected"


def score_features(wanted: Collection[str], names: Sequence[str]) -> dict[str, Any]:
    """The columns' ``datasets`` features, but for the group, which only a finished dataset has.

    Args:
        wanted: scores.
        names: of the classes, in the order of their labels.
    """
    from datasets import ClassLabel, Value

    columns: dict[str, Any] = {}
    if "clip" in wanted:
        features = (Value("float32"), ClassLabel(names=list(names)), Value("float32"))
        columns |= dict(zip(CLIP_COLUMNS, features))
    if "duplicates" in wanted:
        columns[HASH_COLUMN] = Value("string")
    if "safety" in wanted:
        columns[SAFETY_COLUMN] = Value("bool")
    return columns


def score_notes(facts: Mapping[str, Mapping[str, Any]], columns: Collection[str]) -> dict[str, str]:
    """Markdown for the columns that the facts of a manifest's ``scores`` tell more of than the card itself knows.

    Args:
        facts: see :meth:`.scoring.settings.ScoreSettings.score_facts`.
        columns: those that the dataset has.
    """
    from ubgen_hub_cards.card_text import markdown_code, markdown_text

    notes = {}
    if (clip := facts.get("clip")) is not None:
        model, text = markdown_code(clip["model"]), markdown_text(clip["template"])
        notes[CLIP_COLUMNS[0]] = (
            f"cosine, from -1 to 1, of the image and the text “{text}”, filled with its own class's name, for the CLIP"
            f" {model}; null where the image is black all over"
        )
        notes[CLIP_COLUMNS[1]] = f"the class whose text is nearest to the image for {model}"
        notes[CLIP_COLUMNS[2]] = (
            f"that class's probability for {model}: a softmax over the texts of all classes at the CLIP's own"
            " temperature"
        )
    distance = facts.get("duplicates", {}).get("max_hash_distance")
    if distance is not None:
        notes[GROUP_COLUMN] = (
            "`index` of the first row of this row's group of near-duplicates: rows linked by pairs whose hashes differ"
            f" in at most {distance} of 64 bits"
        )
    if (checker := facts.get("safety", {}).get("model")) is not None:
        notes[SAFETY_COLUMN] = (
            f"whether the safety checker of {markdown_code(checker)} flagged the image, or the generator's own, which"
            " makes it black"
        )
    return {name: note for name, note in notes.items() if name in columns}

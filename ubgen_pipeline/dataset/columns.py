"""The dataset columns of annotations and scores: their features, their values, and what the card says of them.

classes      labels of all classes that the image was asked to show
mask         PNG, 8 bits: 0 background, label + 1, 255 ignore
confidence   PNG, 8 bits: 255 times how sure each pixel's value is
heatmaps     one PNG of 8 bits for each of ``classes``: 255 times its score
instances    PNG, 8 bits (16 for more than 255 objects): 0 nothing, i + 1 object i
objects      of each object: bbox (x, y, width, height) in pixels, category (its label), area in pixels, score in
             [0, 1], and polygons where they were asked for

``polygons`` has for each object its outlines as flat lists x0, y0, x1, y1, … along the borders of pixels: outer ones
clockwise on the screen, those of holes the other way round (:func:`.mask_regions.region_outlines`). Version 0.1.0
wrote others, with cut corners and without holes; :func:`read_objects` leaves those out.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files.image_codecs import png_bytes
from ..mask_settings import IGNORE_LABEL

if TYPE_CHECKING:
    from ..annotations import SampleAnnotation
    from ..mask_regions import MaskObject

OBJECTS_COLUMN = "objects"
REVIEW_MASK_COLUMN = "review_mask"
REVIEW_IOU_COLUMN = "review_iou"
CLIP_COLUMNS = ("clip_score", "zero_shot_label", "zero_shot_probability")
HASH_COLUMN = "perceptual_hash"
GROUP_COLUMN = "duplicate_group"
SAFETY_COLUMN = "nsfw_content_detected"
NOT_FINITE_COLUMN = "not_finite"
# its values: drawn again in float32, with success; or black, since that image was not finite either
REDRAWN, BLACK = "redrawn", "black"


@dataclass(frozen=True)
class StoredObject:
    """One object as the column ``objects`` tells of it.

    Attributes:
        label: its class.
        box: (x0, y0, x1, y1) in pixels, end exclusive.
        area: in pixels.
        score: in [0, 1]; None where the dataset has none.
        outlines: ``(P, 2)`` each, as :func:`.mask_regions.region_outlines` gives them; None where the dataset has none
            that run along the borders of pixels.
    """

    label: int
    box: tuple[float, float, float, float]
    area: int
    score: float | None = None
    outlines: list[np.ndarray] | None = None


def known_label(label: int | None) -> int | None:
    """A row's label; None where it has none, which ``datasets`` also writes as -1."""
    return None if label is None or label < 0 else label


def objects_feature(names: Sequence[str], *, polygons: bool = False) -> dict[str, Any]:
    """The ``datasets`` feature of the column ``objects``; ``names`` are the classes' in the order of their labels."""
    from datasets import ClassLabel, List, Value

    feature = {
        "bbox": List(List(Value("int64"), length=4)),
        "category": List(ClassLabel(names=list(names))),
        "area": List(Value("int64")),
        "score": List(Value("float32")),
    }
    if polygons:
        feature["polygons"] = List(List(List(Value("float32"))))
    return feature


def objects_value(objects: "Sequence[MaskObject]", *, polygons: bool = False) -> dict[str, Any]:
    """One image's objects as :func:`objects_feature` describes them."""
    boxes = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (item.box for item in objects)]
    value: dict[str, Any] = {
        "bbox": [list(box) for box in boxes],
        "category": [item.value - 1 for item in objects],
        "area": [item.area for item in objects],
        "score": [item.score for item in objects],
    }
    if polygons:
        from ..mask_regions import region_outlines

        traced = [region_outlines(item.region) for item in objects]
        value["polygons"] = [[points.reshape(-1).tolist() for points in outlines] for outlines in traced]
    return value


def instances_value(objects: "Sequence[MaskObject]", shape: Sequence[int]) -> dict[str, Any]:
    """One image's value of the column ``instances``, for an image of ``shape`` (H, W) whose objects do not overlap."""
    from ..mask_regions import instance_mask

    instances = instance_mask(list(objects), (shape[0], shape[1]))
    return _png(instances if len(objects) > 255 else instances.astype(np.uint8))


def read_objects(value: Mapping[str, Any] | None) -> list[StoredObject]:
    """The objects of one image, from the value that :func:`objects_value` made; none where there is no value."""
    if value is None:
        return []
    nothing = [None] * len(value["bbox"])
    areas, scores, polygons = (value.get(name) or nothing for name in ("area", "score", "polygons"))
    return [
        # where no area is told, the box has one
        StoredObject(
            int(label), box_corners(box), int(box[2] * box[3] if area is None else area), score, _outlines(flat)
        )
        for box, label, area, score, flat in zip(value["bbox"], value["category"], areas, scores, polygons)
    ]


def box_corners(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1), end exclusive, of (x, y, width, height)."""
    x, y, width, height = bbox
    return (x, y, x + width, y + height)


def _outlines(flat: Sequence[Sequence[float]] | None) -> list[np.ndarray] | None:
    if flat is None:
        return None
    outlines = [np.reshape(np.asarray(numbers, dtype=np.float64), (-1, 2)) for numbers in flat]
    if any((points != np.rint(points)).any() for points in outlines):
        return None
    return [points.astype(np.int64) for points in outlines]


def column_values(columns: Collection[str]) -> dict[str, dict[str, int]]:
    """What the numbers in the images of these columns mean, for a dataset's metadata; only columns that have any.

    ``first_label`` is the value of the class with label 0, ``first_object`` that of the first of ``objects``, and
    ``certain`` what stands for a score of 1.
    """
    classes = {"background": 0, "first_label": 1, "ignore": IGNORE_LABEL}
    known = {
        "mask": classes,
        REVIEW_MASK_COLUMN: classes,
        "instances": {"background": 0, "first_object": 1},
        "confidence": {"certain": 255},
        "heatmaps": {"certain": 255},
    }
    return {name: values for name, values in known.items() if name in columns}


def annotation_features(wanted: Collection[str], names: Sequence[str]) -> dict[str, Any]:
    """The columns' ``datasets`` features.

    Args:
        wanted: annotations, as :func:`.mask_settings.check_annotations` gives them.
        names: of the classes, in the order of their labels.
    """
    from datasets import ClassLabel, Image, List

    columns: dict[str, Any] = {"classes": List(ClassLabel(names=list(names)))}
    for annotation, column in (("mask", "mask"), ("confidence", "confidence"), ("instance", "instances")):
        if annotation in wanted:
            columns[column] = Image()
    if "heatmap" in wanted:
        columns["heatmaps"] = List(Image())
    if _has_objects(wanted):
        columns[OBJECTS_COLUMN] = objects_feature(names, polygons="polygon" in wanted)
    return columns


def annotation_row(wanted: Collection[str], annotation: "SampleAnnotation") -> dict[str, Any]:
    """The columns' values for one image, as :func:`annotation_features` describes them."""
    row: dict[str, Any] = {"classes": list(annotation.labels)}
    if "mask" in wanted:
        row["mask"] = _png(annotation.mask)
    if "confidence" in wanted:
        row["confidence"] = _png(_as_bytes(annotation.confidence))
    if "instance" in wanted:
        row["instances"] = instances_value(annotation.objects, annotation.mask.shape)
    if "heatmap" in wanted:
        row["heatmaps"] = [_png(_as_bytes(heat_map)) for heat_map in annotation.heat_maps]
    if _has_objects(wanted):
        row[OBJECTS_COLUMN] = objects_value(annotation.objects, polygons="polygon" in wanted)
    return row


def _has_objects(wanted: Collection[str]) -> bool:
    return "box" in wanted or "polygon" in wanted or "instance" in wanted


def _as_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 255).astype(np.uint8)


def _png(pixels: np.ndarray) -> dict[str, Any]:
    return {"bytes": png_bytes(pixels), "path": None}


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

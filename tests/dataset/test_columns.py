"""Columns of annotations and scores, written to parquet and read again."""

import io

import numpy as np
import pyarrow.parquet as parquet
import pytest
from datasets import Dataset, Features
from matplotlib.path import Path as Outline
from PIL import Image

from support import DATA
from ubgen_pipeline.annotations import SampleAnnotation
from ubgen_pipeline.dataset.columns import (
    CLIP_COLUMNS,
    HASH_COLUMN,
    SAFETY_COLUMN,
    annotation_features,
    annotation_row,
    known_label,
    objects_feature,
    objects_value,
    read_objects,
    score_features,
    score_notes,
)
from ubgen_pipeline.mask_regions import mask_objects
from ubgen_pipeline.mask_settings import ANNOTATIONS
from ubgen_pipeline.mini.scenes import scenes

NAMES = ["circle", "ring"]
FIRST = DATA / "first_version" / "dataset" / "data" / "train-00000-of-00002.parquet"


@pytest.fixture(scope="module")
def annotation() -> SampleAnnotation:
    """A ring and a square in one image of 64 x 64."""
    ring = next(scene for scene in scenes(100, bias=0.0, seed=2) if scene.factors.class_name == "ring")
    mask = np.where(ring.mask, 2, 0).astype(np.uint8)
    mask[:3, :4] = 1
    confidence = np.linspace(0, 1, mask.size, dtype=np.float32).reshape(mask.shape)
    maps = np.stack([mask == 1, mask == 2]).astype(np.float32)
    return SampleAnnotation([0, 1], mask, confidence, maps, mask_objects(mask, confidence, 0))


def stored(value: dict, feature: dict, tmp_path) -> dict:
    """The value as it comes back from a parquet file."""
    file = tmp_path / "objects.parquet"
    Dataset.from_list([{"objects": value}], Features({"objects": feature})).to_parquet(file)
    return parquet.read_table(file)["objects"][0].as_py()


@pytest.mark.parametrize("polygons", [False, True])
def test_objects_come_back(annotation, tmp_path, polygons):
    value = objects_value(annotation.objects, polygons=polygons)
    found = read_objects(stored(value, objects_feature(NAMES, polygons=polygons), tmp_path))
    assert [(item.label, item.box, item.area) for item in found] == [
        (item.value - 1, item.box, item.area) for item in annotation.objects
    ]
    np.testing.assert_allclose([item.score for item in found], [item.score for item in annotation.objects], rtol=1e-6)
    assert len(found) >= 2 and all((item.outlines is not None) == polygons for item in found)


def test_stored_polygons_drawn_by_another_program_are_the_mask(annotation, tmp_path):
    value = stored(objects_value(annotation.objects, polygons=True), objects_feature(NAMES, polygons=True), tmp_path)
    rows, columns = np.mgrid[:64, :64]
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    for item, polygons in zip(annotation.objects, value["polygons"]):
        drawn = np.zeros((64, 64), bool)
        for flat in polygons:
            points = np.reshape(flat, (-1, 2))
            drawn ^= Outline(np.vstack([points, points[:1]]), closed=True).contains_points(centres).reshape(64, 64)
        assert np.array_equal(drawn, item.region)
    assert max(map(len, value["polygons"])) == 2, "no object with a hole was tested"


def test_objects_of_the_first_version_are_read_without_their_cut_outlines():
    table = parquet.read_table(FIRST)
    features = Features.from_arrow_schema(table.schema)
    assert features["objects"] == objects_feature(features["label"].names, polygons=True)
    values = table["objects"].to_pylist()
    assert any(value["polygons"] for value in values)
    for value in values:
        found = read_objects(value)
        assert [list(item.box) for item in found] == [[x, y, x + w, y + h] for x, y, w, h in value["bbox"]]
        assert all(item.outlines is None for item in found)


@pytest.mark.parametrize("wanted", [ANNOTATIONS, ("mask",), ("polygon",), ("heatmap", "instance")])
def test_features_and_values_agree(annotation, wanted):
    features, row = annotation_features(wanted, NAMES), annotation_row(wanted, annotation)
    assert features.keys() == row.keys() and row["classes"] == [0, 1]
    Dataset.from_list([row], Features(features))
    if "objects" in features:
        assert list(features["objects"]) == list(row["objects"])
        assert ("polygons" in features["objects"]) == ("polygon" in wanted)


def test_images_hold_the_annotation_in_their_own_units(annotation):
    row = annotation_row(ANNOTATIONS, annotation)

    def pixels(value):
        return np.asarray(Image.open(io.BytesIO(value["bytes"])))

    assert np.array_equal(pixels(row["mask"]), annotation.mask)
    assert np.abs(pixels(row["confidence"]) / 255 - annotation.confidence).max() <= 0.5 / 255 + 1e-6
    for number, item in enumerate(annotation.objects, 1):
        assert np.array_equal(pixels(row["instances"]) == number, item.region)
    assert len(row["heatmaps"]) == 2
    for label, heat_map in enumerate(row["heatmaps"]):
        assert np.array_equal(pixels(heat_map) == 255, annotation.mask == label + 1)


def test_scores_have_columns_and_notes_only_where_wanted():
    assert list(score_features(["clip", "duplicates", "safety"], NAMES)) == [*CLIP_COLUMNS, HASH_COLUMN, SAFETY_COLUMN]
    assert score_features(["clip"], NAMES)[CLIP_COLUMNS[1]].names == NAMES and not score_features([], NAMES)
    facts = {"clip": {"model": "a*b", "template": "a {name}"}, "duplicates": {"max_hash_distance": 7}}
    notes = score_notes(facts, [CLIP_COLUMNS[0], "duplicate_group"])
    assert list(notes) == [CLIP_COLUMNS[0], "duplicate_group"] and "7 of 64 bits" in notes["duplicate_group"]
    assert not score_notes(facts, [])


def test_a_label_is_none_where_datasets_says_so():
    assert [known_label(label) for label in (0, 7, None, -1)] == [0, 7, None, None]

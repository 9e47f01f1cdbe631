"""Rows with their masks and objects, against the scenes that they were written from."""

import datetime

import numpy as np
import pytest

from support.scene_dataset import NUM_ROWS, write_scene_dataset
from ubgen_pipeline.dataset.annotated_rows import AnnotatedRows, json_value


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated") / "d"
    return folder, write_scene_dataset(folder, polygons=True)


def test_rows_come_with_masks_objects_and_outlines(written):
    folder, true = written
    rows = AnnotatedRows(folder)
    assert len(rows) == NUM_ROWS and rows.has_masks and rows.has_objects
    assert rows.image_columns == ["mask", "instances"] and rows.image_list_columns == ["heatmaps"]
    for index, (row, expected) in enumerate(zip(rows, true, strict=True)):
        assert (row.index, row.name, row.suffix, row.size) == (index, f"{index:08d}", ".png", (128, 64))
        assert np.array_equal(np.asarray(row.decoded()), expected.image) and np.array_equal(row.mask, expected.mask)
        assert [(item.label, item.box, item.area) for item in row.objects] == [
            (label, box, region.sum()) for label, box, region in expected.objects
        ]
        for item, (*_, region) in zip(row.objects, expected.objects):
            assert np.array_equal(item.region, region) and item.outlines is item.stored_outlines


def test_values_become_what_json_holds():
    day = datetime.date(2020, 1, 2)
    assert json_value({"a": [float("nan"), 0.5, True, 2**62], "b": (b"\xff", None), 1: day, "c": float("inf")}) == {
        "a": [None, 0.5, True, 2**62], "b": ["/w==", None], "1": "2020-01-02", "c": None,
    }  # fmt: skip


def test_an_object_without_a_region_has_its_boxs_outline(written):
    item = next(iter(AnnotatedRows(written[0]))).objects[0]
    bare = type(item)(item.label, (1, 2, 4, 3), 3)
    assert bare.outlines[0].tolist() == [[1, 2], [4, 2], [4, 3], [1, 3]]

"""COCO, read again by pycocotools."""

import numpy as np
import pytest
from pycocotools.coco import COCO

from support.exported import NAMES, inside, pixels, replaced, rewrite
from support.scene_dataset import NUM_ROWS, png, write_scene_dataset
from ubgen_pipeline.export.export import ExportSettings, export_dataset


@pytest.mark.parametrize("polygons", [False, True])
def test_coco_reads_back(dataset, exports, tmp_path, polygons, capsys):
    folder, rows = dataset
    root = exports / "coco"
    if polygons:
        root = tmp_path / "coco"
        export_dataset(folder, ExportSettings("coco", str(root), polygons=True))
    coco = COCO(root / "annotations" / "instances_train.json")
    assert coco.getCatIds() == list(range(1, 11)) and [c["name"] for c in coco.loadCats(coco.getCatIds())] == NAMES
    assert coco.getImgIds() == list(range(NUM_ROWS))
    ids = coco.getAnnIds()
    assert ids == list(range(1, 2 * NUM_ROWS - 1))
    for index, true in enumerate(rows):
        (about,) = coco.loadImgs(index)
        assert (about["width"], about["height"]) == (128, 64)
        assert np.array_equal(pixels(root / "images" / about["file_name"]), true.image)
        assert np.array_equal(pixels(root / "masks" / f"{index:08d}.png"), true.mask)
        found = coco.loadAnns(coco.getAnnIds(imgIds=index))
        assert len(found) == len(true.objects)
        for annotation, (label, (x0, y0, x1, y1), region) in zip(found, true.objects):
            assert annotation["category_id"] == label + 1
            assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert annotation["area"] == region.sum() and annotation["iscrowd"] == 0
            assert isinstance(annotation["segmentation"], list) == polygons
            drawn = coco.annToMask(annotation).astype(bool)
            if polygons:
                # pycocotools draws polygons on a grid of its own and moves borders by less than a pixel
                assert (drawn & region).sum() / (drawn | region).sum() > 0.9
                outlines = [np.reshape(points, (-1, 2)) for points in annotation["segmentation"]]
                assert np.array_equal(sum(inside(points, region.shape) for points in outlines), region)
            else:
                assert np.array_equal(drawn, region)


def test_outlines_alone_say_the_region_exactly(tmp_path):
    rows = write_scene_dataset(tmp_path / "d", polygons=True)
    rewrite(tmp_path / "d", lambda table: table.drop_columns(["mask", "instances"]))
    export_dataset(tmp_path / "d", ExportSettings("coco", str(tmp_path / "coco")))
    coco = COCO(tmp_path / "coco" / "annotations" / "instances_train.json")
    regions = [region for row in rows for *_, region in row.objects]
    assert len(coco.getAnnIds()) == len(regions)
    for annotation, region in zip(coco.loadAnns(coco.getAnnIds()), regions):
        assert np.array_equal(coco.annToMask(annotation), region)


def test_where_outlines_and_pixels_differ_the_pixels_count(tmp_path):
    rows = write_scene_dataset(tmp_path / "d", polygons=True)
    changed = np.where(rows[1].instances == 1, 1, 0).astype(np.uint8)
    ys, xs = np.nonzero(changed)
    changed[ys[0], xs[0]] = 0
    rewrite(tmp_path / "d", lambda table: replaced(table, "instances", 1, png(changed)))
    export_dataset(tmp_path / "d", ExportSettings("coco", str(tmp_path / "coco"), polygons=True))
    coco = COCO(tmp_path / "coco" / "annotations" / "instances_train.json")
    annotation = coco.loadAnns(coco.getAnnIds(imgIds=1))[0]
    assert annotation["area"] == changed.sum() == rows[1].objects[0][2].sum() - 1
    outlines = [np.reshape(points, (-1, 2)) for points in annotation["segmentation"]]
    assert np.array_equal(sum(inside(points, changed.shape) for points in outlines), changed)


def test_objects_come_from_the_mask_where_the_dataset_lists_none(tmp_path):
    folder = tmp_path / "d"
    rows = write_scene_dataset(folder)
    rewrite(folder, lambda table: table.drop_columns(["objects", "instances"]))
    export_dataset(folder, ExportSettings("coco", str(tmp_path / "coco")))
    coco = COCO(tmp_path / "coco" / "annotations" / "instances_train.json")
    for index, true in enumerate(rows):
        found = coco.loadAnns(coco.getAnnIds(imgIds=index))
        # the ignored stripe may part an object, and two of one class may touch
        for label in {label for label, *_ in true.objects}:
            drawn = [coco.annToMask(item) for item in found if item["category_id"] == label + 1]
            assert np.array_equal(sum(drawn) > 0, true.mask == label + 1)
            assert (
                sum(item["area"] for item in found if item["category_id"] == label + 1)
                == (true.mask == label + 1).sum()
            )

"""Exports as Ultralytics, Label Studio and Detectron2 read them.

The readers of the first two run where they are installed (``pip install ultralytics label-studio-sdk``), which CI does
not do; the rules that Detectron2's reader holds an annotation to are checked everywhere.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from pycocotools import mask as coco_masks

from support.exported import inside
from support.parts_dataset import NAMES, write_parts_dataset
from ubgen_pipeline.export.export import ExportSettings, export_dataset
from ubgen_pipeline.export.outlines import num_parts
from ubgen_pipeline.mask_regions import region_box, region_outlines

GRIDS = [None, "pixels", "borders"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts") / "d"
    return folder, write_parts_dataset(folder)


def has_several_parts(region):
    return num_parts(region_outlines(region)) > 1


def check_masks(read, images):
    """``read`` holds, by the image's name, label and mask of each object: the pixels where it has one part, and
    theirs and a line between them where it has several."""
    several = 0
    for name, objects in enumerate(images):
        found = read[name]
        assert [label for label, _ in found] == [label for label, _ in objects]
        for (_, mask), (_, region) in zip(found, objects):
            assert mask[region].all()
            several += has_several_parts(region)
            assert has_several_parts(region) or np.array_equal(mask, region)
    assert several >= 4


def ultralytics_masks(root):
    """Labels and masks of every image in YOLO's layout, as Ultralytics' loader gives them to a training."""
    data_utils = pytest.importorskip("ultralytics.data.utils")
    from ultralytics.data.dataset import YOLODataset

    data = data_utils.check_det_dataset(str(root / "data.yaml"), autodownload=False)
    images = str(root / "images" / "train")
    rows = YOLODataset(img_path=images, imgsz=64, augment=False, rect=False, data=data, task="segment")
    read = {}
    for label in rows.labels:
        height, width = label["shape"]
        polygons = [(outline * [width, height]).reshape(-1) for outline in label["segments"]]
        masks = [data_utils.polygon2mask((height, width), [polygon]).astype(bool) for polygon in polygons]
        read[int(Path(label["im_file"]).stem)] = list(zip(label["cls"].reshape(-1).astype(int).tolist(), masks))
    return read


@pytest.mark.parametrize("grid", GRIDS)
def test_ultralytics_trains_on_the_objects(parts, tmp_path, grid):
    pytest.importorskip("ultralytics")
    folder, images = parts
    settings = ExportSettings("yolo", str(tmp_path / "o"), polygons=True, polygon_grid=grid, accept_loss=True)
    export_dataset(folder, settings)
    check_masks(ultralytics_masks(tmp_path / "o"), images)


@pytest.mark.parametrize("grid", GRIDS)
def test_ultralytics_converts_coco(parts, tmp_path, grid):
    converter = pytest.importorskip("ultralytics.data.converter")
    folder, images = parts
    coco, root = tmp_path / "o", tmp_path / "yolo"
    export_dataset(folder, ExportSettings("coco", str(coco), polygons=True, polygon_grid=grid))
    converter.convert_coco(str(coco / "annotations"), str(tmp_path / "c"), use_segments=True, cls91to80=False)
    (labels,) = (tmp_path / "c" / "labels").iterdir()
    shutil.copytree(coco / "images", root / "images" / "train")
    shutil.copytree(labels, root / "labels" / "train")
    about = {"path": str(root), "train": "images/train", "val": "images/train", "names": dict(enumerate(NAMES))}
    (root / "data.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")
    check_masks(ultralytics_masks(root), images)


def test_label_studio_reads_coco(parts, tmp_path):
    importer = pytest.importorskip("label_studio_sdk.converter.imports.coco")
    folder, images = parts
    settings = ExportSettings("coco", str(tmp_path / "o"), polygons=True, polygon_grid="borders")
    export_dataset(folder, settings)
    out = tmp_path / "tasks.json"
    importer.convert_coco_to_ls(str(tmp_path / "o" / "annotations" / "instances_train.json"), str(out))
    tasks = json.loads(out.read_text(encoding="utf-8"))
    assert len(tasks) == len(images)
    for task in tasks:
        objects = images[int(Path(task["data"]["image"].partition("?d=")[2]).stem)]
        results = task["annotations"][0]["result"]
        boxes = [item["value"] for item in results if item["type"] == "rectanglelabels"]
        outlines = [item for item in results if item["type"] == "polygonlabels"]
        assert [value["rectanglelabels"] for value in boxes] == [[NAMES[label]] for label, _ in objects]
        for value, (_, region) in zip(boxes, objects):
            height, width = region.shape
            x0, y0, x1, y1 = region_box(region)
            found = np.array([value[side] for side in ("x", "y", "width", "height")]) / 100
            np.testing.assert_allclose(found * [width, height, width, height], [x0, y0, x1 - x0, y1 - y0], atol=1e-6)
        # a polygon for each part, one object after the other
        for label, region in objects:
            union = np.zeros_like(region)
            for _ in range(num_parts(region_outlines(region))):
                item = outlines.pop(0)
                assert item["value"]["polygonlabels"] == [NAMES[label]]
                points = np.array(item["value"]["points"]) / 100 * region.shape[::-1]
                union |= inside(points, region.shape)
            assert np.array_equal(union, region)
        assert not outlines


@pytest.mark.parametrize("polygons", [False, True])
def test_annotations_keep_the_rules_of_detectron2(parts, tmp_path, polygons):
    """Its reader takes polygons of three points or more with an even count of numbers, or run lengths; drops objects
    without one; and wants every image and annotation to have a number of its own."""
    folder, images = parts
    export_dataset(folder, ExportSettings("coco", str(tmp_path / "o"), polygons=polygons))
    read = json.loads((tmp_path / "o" / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    numbers = [annotation["id"] for annotation in read["annotations"]]
    assert len({*numbers}) == len(numbers) == sum(map(len, images))
    assert len({image["id"] for image in read["images"]}) == len(images)
    assert [category["id"] for category in read["categories"]] == list(range(1, len(NAMES) + 1))
    sizes = {image["id"]: (image["height"], image["width"]) for image in read["images"]}
    for annotation in read["annotations"]:
        segmentation, size = annotation["segmentation"], sizes[annotation["image_id"]]
        if polygons:
            assert segmentation and all(len(part) >= 6 and len(part) % 2 == 0 for part in segmentation)
            run_lengths = coco_masks.merge(coco_masks.frPyObjects(segmentation, *size))
        else:
            run_lengths = segmentation
            if isinstance(segmentation["counts"], list):
                run_lengths = coco_masks.frPyObjects(segmentation, *size)
        mask = coco_masks.decode(run_lengths)
        assert mask.shape == size and mask.sum() == annotation["area"] and annotation.get("iscrowd", 0) == 0

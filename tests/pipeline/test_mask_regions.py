"""Objects, boxes and polygons of masks; polygons are drawn again with Pillow and compared with the mask."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ubgen_pipeline.mask_regions import instance_mask, mask_objects, region_polygons
from ubgen_pipeline.mini.scenes import scenes


def test_objects_of_a_small_mask():
    mask = np.zeros((8, 10), dtype=np.uint8)
    mask[1:3, 1:5] = 2
    mask[5:8, 7:10] = 2
    mask[0, 9] = 2
    mask[6, 0:2] = 1
    mask[4, 4] = 255
    confidence = np.full((8, 10), 0.5, dtype=np.float32)
    confidence[5:8, 7:10] = 1
    objects = mask_objects(mask, confidence, min_area=2 / 80)
    assert [(item.value, item.box, item.area, item.score) for item in objects] == [
        (1, (0, 6, 2, 7), 2, 0.5),
        (2, (7, 5, 10, 8), 9, 1.0),
        (2, (1, 1, 5, 3), 8, 0.5),
    ]
    instances = instance_mask(objects, mask.shape)
    assert instances[6, 0] == 1 and instances[7, 9] == 2 and instances[1, 1] == 3 and instances[0, 9] == 0
    assert len(mask_objects(mask, confidence, min_area=0)) == 4
    assert not mask_objects(np.full((4, 4), 255, dtype=np.uint8), np.zeros((4, 4)), 0)
    with pytest.raises(ValueError, match=r"mask is \(8, 10\)"):
        mask_objects(mask, np.zeros((4, 4)), 0)


def test_boxes_are_those_of_rendered_scenes():
    for scene in scenes(10, bias=0.0, seed=1):
        objects = mask_objects(scene.mask.astype(np.uint8), np.ones(scene.mask.shape), min_area=0)
        assert objects[0].box == scene.box and sum(item.area for item in objects) == scene.mask.sum()


def test_polygons_draw_the_region_again():
    for scene in scenes(20, bias=0.0, seed=2):
        if scene.factors.class_name == "ring":
            continue
        scale, canvas = 8, Image.new("L", (64 * 8, 64 * 8))
        for polygon in region_polygons(scene.mask):
            points = [(x * scale, y * scale) for x, y in zip(polygon[::2], polygon[1::2])]
            ImageDraw.Draw(canvas).polygon(points, fill=1)
        # pixel (i, j) of the drawing is read at its middle
        drawn = np.asarray(canvas)[scale // 2 :: scale, scale // 2 :: scale].astype(bool)
        assert (drawn != scene.mask).sum() <= 2, scene.factors.class_name


def test_polygon_of_a_rectangle():
    region = np.zeros((6, 7), dtype=bool)
    region[2:5, 1:7] = True
    (polygon,) = region_polygons(region)
    points = np.array(polygon).reshape(-1, 2)
    assert points.min(axis=0).tolist() == [1, 2] and points.max(axis=0).tolist() == [7, 5]
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    # four corners are cut by half an eighth of a pixel squared
    assert area == pytest.approx(18 - 4 * 0.125**2 / 2)

"""Objects and boxes of masks; outlines against pixel counts, matplotlib's point-in-polygon and scipy's labelling."""

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from ubgen_pipeline.mask_regions import (
    connected_regions,
    instance_mask,
    mask_objects,
    polygon_area,
    region_of_outlines,
    region_outlines,
)
from ubgen_pipeline.mini.scenes import scenes


def region(*lines):
    return np.array([[char == "#" for char in line] for line in lines])


RING = region("#####", "#...#", "#.#.#", "#...#", "#####")
CORNERS = region("##..", "##..", "..##", "..##")
SHAPES = [region("#"), region(".#.", "###", ".#."), RING, CORNERS, CORNERS[::-1], region("#.#", ".#.", "#.#")]
SHAPES += [np.random.default_rng(seed).random((13, 17)) < 0.6 for seed in range(20)]


def enclosed(points, shape):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    return Outline(np.vstack([points, points[:1]]), closed=True).contains_points(centres).reshape(shape)


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


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_enclose_the_region(shape):
    outlines = region_outlines(shape)
    assert sum(map(polygon_area, outlines)) == shape.sum()
    inside = np.zeros(shape.shape, int)
    for points in outlines:
        inside += enclosed(points, shape.shape) * (1 if polygon_area(points) > 0 else -1)
    assert np.array_equal(inside, shape.astype(int))
    for points in outlines:
        before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
        assert (np.abs(before).min(axis=1) == 0).all(), "an edge that follows no pixel border"
        assert ((before * after).sum(axis=1) == 0).all(), "a point that is no corner"


def test_a_square_is_four_points_clockwise():
    square = np.zeros((5, 6), bool)
    square[1:3, 2:5] = True
    (points,) = region_outlines(square)
    assert sorted(map(tuple, points.tolist())) == [(2, 1), (2, 3), (5, 1), (5, 3)] and polygon_area(points) == 6
    assert len(region_outlines(RING)) == 3 and len(region_outlines(CORNERS)) == 2


def test_connected_regions_hold_together_at_corners_and_skip():
    mask = np.array([[1, 0, 255], [0, 1, 0], [2, 0, 1]])
    found = list(connected_regions(mask, skip=(0, 255)))
    assert [(value, box, int(part.sum())) for value, box, part in found] == [
        (1, (0, 0, 3, 3), 3),
        (2, (0, 2, 1, 3), 1),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_region_comes_back_from_its_outlines_holes_included(shape):
    outlines = region_outlines(shape)
    assert np.array_equal(region_of_outlines(outlines, shape.shape), shape)
    assert np.array_equal(
        region_of_outlines([np.roll(points, 1, axis=0) for points in outlines[::-1]], shape.shape), shape
    )


def test_outlines_of_rendered_scenes_enclose_their_masks():
    num_rings = 0
    for scene in scenes(20, bias=0.0, seed=2):
        outlines = region_outlines(scene.mask)
        assert np.array_equal(region_of_outlines(outlines, scene.mask.shape), scene.mask)
        num_rings += scene.factors.class_name == "ring" and any(polygon_area(points) < 0 for points in outlines)
    assert num_rings, "no region with a hole was tested"


@pytest.mark.parametrize(
    "points, message",
    [
        ([[0, 0], [2, 2], [0, 2]], "leaves the borders of the pixels"),
        ([[0.5, 0], [2, 0], [2, 2], [0.5, 2]], "leaves the borders of the pixels"),
        ([[0, 0], [9, 0], [9, 2], [0, 2]], "leaves the image of 5 x 4 pixels"),
        ([[-1, 0], [2, 0], [2, 2], [-1, 2]], "leaves the image of 5 x 4 pixels"),
    ],
)
def test_other_outlines_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        region_of_outlines([np.array(points)], (4, 5))

"""Outlines of regions against pixel counts, matplotlib's point-in-polygon and scipy's labelling."""

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from ubgen_pipeline.mask_regions import connected_regions, polygon_area, region_outlines, single_outline


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


@pytest.mark.parametrize("shape", SHAPES)
def test_one_outline_has_the_regions_area(shape):
    points = single_outline(shape)
    assert polygon_area(points) == shape.sum()
    assert np.array_equal(enclosed(points, shape.shape), shape)


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

"""Polygons of objects with holes and parts, filled again as pycocotools and OpenCV fill them."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from supervision import polygon_to_mask

from support.exported import inside
from support.parts_dataset import hard_objects
from ubgen_pipeline.export.outlines import GRIDS, num_parts, part_polygons, single_polygon
from ubgen_pipeline.mask_regions import region_outlines

REGIONS = [region for objects in hard_objects() for _, region in objects]


def by_opencv(polygons, shape, corners):
    """Filled one after the other, with corners made whole numbers by ``corners``."""
    masks = [polygon_to_mask(corners(points).astype(int), shape[::-1]).astype(bool) for points in polygons]
    return np.any(masks, axis=0)


def by_coco(polygons, shape):
    packed = coco_mask.frPyObjects([points.reshape(-1).tolist() for points in polygons], *shape)
    return coco_mask.decode(coco_mask.merge(packed)).astype(bool)


@pytest.mark.parametrize("region", REGIONS)
def test_polygons_of_parts_are_exact_in_the_readers_of_their_grid(region):
    outlines, shape = region_outlines(region), region.shape
    borders, pixels = (part_polygons(outlines, grid) for grid in GRIDS)
    assert len(borders) == len(pixels) == num_parts(outlines)
    assert np.array_equal(by_coco(borders, shape), region)
    assert np.array_equal(sum(inside(points, shape) for points in borders), region)
    assert np.array_equal(by_opencv(borders, shape, np.trunc), region)
    for corners in (np.trunc, np.round):
        assert np.array_equal(by_opencv(pixels, shape, corners), region)


@pytest.mark.parametrize("region", REGIONS)
def test_one_polygon_is_exact_but_for_lines_between_parts(region):
    outlines, shape = region_outlines(region), region.shape
    borders, pixels = (single_polygon(outlines, grid) for grid in GRIDS)
    assert np.array_equal(by_coco([borders], shape), region) and np.array_equal(inside(borders, shape), region)
    for corners in (np.trunc, np.round):
        filled = by_opencv([pixels], shape, corners)
        assert filled[region].all() and (num_parts(outlines) > 1 or not filled[~region].any())


def test_a_disc_behind_a_bar_loses_little():
    _, (disc, _), *_ = hard_objects()
    region = disc[1]
    assert num_parts(region_outlines(region)) == 2
    filled = by_opencv([single_polygon(region_outlines(region), "pixels")], region.shape, np.round)
    # a line across the bar of four pixels
    assert (filled & ~region).sum() <= 4 and region.sum() / filled.sum() > 0.99


def test_an_object_of_many_parts_is_joined_by_short_lines():
    region = np.random.default_rng(0).random((40, 40)) > 0.55
    outlines = region_outlines(region)
    assert num_parts(outlines) > 100
    assert np.array_equal(by_coco([single_polygon(outlines, "borders")], region.shape), region)
    filled = by_opencv([single_polygon(outlines, "pixels")], region.shape, np.round)
    # parts of noise are a pixel or two apart
    assert filled[region].all() and (filled & ~region).sum() < 2 * num_parts(outlines)

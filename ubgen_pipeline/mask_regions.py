"""From a mask to its objects: connected regions with their boxes, areas, scores and polygons."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from contourpy import contour_generator
from scipy import ndimage

from .mask_settings import IGNORE_LABEL


@dataclass(frozen=True)
class MaskObject:
    """One connected region of a class.

    Attributes:
        value: the mask's value in the region.
        box: (x0, y0, x1, y1) in pixels, end exclusive.
        area: number of its pixels.
        score: mean confidence of its pixels in [0, 1].
        region: ``(H, W)`` bool.
    """

    value: int
    box: tuple[int, int, int, int]
    area: int
    score: float
    region: np.ndarray


def mask_objects(mask: np.ndarray, confidence: np.ndarray, min_area: float) -> list[MaskObject]:
    """The regions of equal value (touching at sides or corners) that are neither background nor ignored.

    Args:
        mask: ``(H, W)`` uint8; 0 background, 255 ignore.
        confidence: ``(H, W)`` in [0, 1].
        min_area: least share of the image in [0, 1) that a region must cover.

    Returns:
        The objects by value, then by area from large to small, then from top to bottom.

    Raises:
        ValueError: mask and confidence of different sizes.
    """
    if mask.shape != confidence.shape:
        raise ValueError(f"mask is {mask.shape} and confidence {confidence.shape}; give both of the image's size.")
    objects = []
    for value in np.unique(mask):
        if value in (0, IGNORE_LABEL):
            continue
        labelled, num_regions = ndimage.label(mask == value, structure=np.ones((3, 3)))  # pyright: ignore
        found = []
        for number, (rows, columns) in enumerate(ndimage.find_objects(labelled), 1):
            region = labelled == number
            area = int(region.sum())
            if area >= min_area * mask.size:
                box = (columns.start, rows.start, columns.stop, rows.stop)
                found.append(MaskObject(int(value), box, area, float(confidence[region].mean()), region))
        assert num_regions >= len(found)
        objects.extend(sorted(found, key=lambda item: (-item.area, item.box[1], item.box[0])))
    return objects


def instance_mask(objects: list[MaskObject], shape: tuple[int, int]) -> np.ndarray:
    """``(H, W)`` uint16: 0 where there is no object, i + 1 at the pixels of object i."""
    instances = np.zeros(shape, dtype=np.uint16)
    for number, item in enumerate(objects, 1):
        instances[item.region] = number
    return instances


def region_polygons(region: np.ndarray) -> list[list[float]]:
    """Outlines of a region as flat lists x0, y0, x1, y1, … in pixel coordinates (x to the right, y down;
    the image's corner is 0, 0).

    A region with holes gives one outline around each part and none for the holes: COCO's polygons cannot say that a
    part is left out. Use the mask where holes matter.

    Args:
        region: ``(H, W)`` bool, True somewhere.
    """
    rows, columns = ndimage.find_objects(region.astype(np.uint8))[0]
    filled = ndimage.binary_fill_holes(region[rows, columns])
    # four samples a pixel: the contour half-way between samples is then the pixels' own border, but for cut corners
    padded = np.pad(np.kron(np.asarray(filled, dtype=np.float32), np.ones((4, 4))), 1)
    polygons = []
    for line in contour_generator(z=padded).lines(0.5):
        points = _without_straight_points((np.asarray(line)[:-1] - 0.5) / 4)
        if len(points) >= 3:
            points = points + np.array([columns.start, rows.start])
            polygons.append([round(float(value), 3) for value in points.reshape(-1)])
    return polygons


def _without_straight_points(points: np.ndarray) -> np.ndarray:
    """``(P, 2)`` points of a closed outline without those on a straight line between their neighbours."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return points[np.abs(cross) > 1e-9]


def connected_regions(
    mask: np.ndarray, skip: Collection[int]
) -> Iterator[tuple[int, tuple[int, int, int, int], np.ndarray]]:
    """Value, box (x0, y0, x1, y1; end exclusive) and ``(H, W)`` bool region of each part of equal value.

    Args:
        mask: ``(H, W)`` of whole numbers; pixels that touch at a side or a corner belong together.
        skip: values that are no object.
    """
    for value in np.unique(mask):
        if value in skip:
            continue
        parts, _ = ndimage.label(mask == value, structure=np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
            yield int(value), (columns.start, rows.start, columns.stop, rows.stop), parts == number


def region_outlines(region: np.ndarray) -> list[np.ndarray]:
    """Closed outlines ``(P, 2)`` of x, y along the borders of the pixels: whole numbers, the image's corner is 0, 0.

    Outer ones run clockwise on the screen (positive shoelace area, y down), those of holes the other way round, so the
    sum of their areas is the number of pixels. Parts that touch at a corner only get an outline each.

    Args:
        region: ``(H, W)`` bool.
    """
    inside = np.pad(region, 1)
    # each border edge runs with the region to its right: (start) -> (end), coordinates of pixel corners
    steps: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for (row_shift, column_shift), start, end in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        outside = ~np.roll(inside, (-row_shift, -column_shift), axis=(0, 1))
        for row, column in np.argwhere(inside & outside) - 1:
            steps[column + start[0], row + start[1]].append((column + end[0], row + end[1]))
    outlines = []
    while steps:
        first = next(iter(steps))
        corner, direction, outline = first, (0, 0), []
        while True:
            ends = steps[corner]
            # where two pixels touch at a corner, turn to stay with the same pixel
            turn = (-direction[1], direction[0])
            chosen = next((end for end in ends if (end[0] - corner[0], end[1] - corner[1]) == turn), ends[0])
            ends.remove(chosen)
            if not ends:
                del steps[corner]
            new_direction = (chosen[0] - corner[0], chosen[1] - corner[1])
            if new_direction != direction:
                outline.append(corner)
            corner, direction = chosen, new_direction
            if corner == first:
                break
        points = np.array(outline)
        # the start may lie on a straight line
        if _turn(points[-1], points[0], points[1]) == 0:
            points = points[1:]
        outlines.append(points)
    return outlines


def single_outline(region: np.ndarray) -> np.ndarray:
    """One closed outline ``(P, 2)`` for a region with holes and parts, for formats that hold one polygon per object.

    The pieces are joined by bridges that are walked there and back, which enclose nothing: its area is the region's.
    """
    first, *rest = sorted(region_outlines(region), key=lambda points: -abs(polygon_area(points)))
    joined = first
    while rest:
        # the nearest outline next, so that bridges are short
        gaps = [((joined[:, None] - points[None]) ** 2).sum(-1) for points in rest]
        nearest = min(range(len(rest)), key=lambda number: gaps[number].min())
        here, there = np.unravel_index(int(gaps[nearest].argmin()), gaps[nearest].shape)
        points = rest.pop(nearest)
        # along pixel borders too: a slanting bridge may run through a pixel's centre, where readers ask what is inside
        corner = np.array([[points[there, 0], joined[here, 1]]])
        bridged = [corner, points[there:], points[: there + 1], corner]
        joined = np.concatenate([joined[: here + 1], *bridged, joined[here:]])
    return joined


def polygon_area(points: np.ndarray) -> float:
    """Signed area of a closed outline ``(P, 2)``, positive when it runs clockwise on the screen."""
    x, y = points[:, 0], points[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _turn(before: np.ndarray, point: np.ndarray, after: np.ndarray) -> int:
    first, second = point - before, after - point
    return int(first[0] * second[1] - first[1] * second[0])

"""Regions of masks as the formats want them: connected parts, outlines along pixel borders, run lengths."""

from collections import defaultdict
from collections.abc import Collection, Iterator

import numpy as np
from scipy import ndimage


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

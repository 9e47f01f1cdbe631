"""From a mask to its objects: connected regions with their boxes, areas and scores, and the outlines of a region.

Outlines run along the borders of the pixels, so that they say a region exactly, holes included: they are what a
dataset stores in ``objects.polygons`` and what exports write.

Shapes: an image of H x W pixels; an outline is closed and has P corners.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

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


def connected_regions(
    mask: np.ndarray, skip: Collection[int]
) -> Iterator[tuple[int, tuple[int, int, int, int], np.ndarray]]:
    """Value, box (x0, y0, x1, y1; end exclusive) and ``(H, W)`` bool region of each part of equal value.

    Args:
        mask: ``(H, W)`` of whole numbers; pixels that touch at a side or a corner belong together.
        skip: values that are no object.
    """
    # imported here: every command that reads objects imports this module, also for its --help
    from scipy import ndimage

    for value in np.unique(mask):
        if value in skip:
            continue
        parts, _ = ndimage.label(mask == value, structure=np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
            yield int(value), (columns.start, rows.start, columns.stop, rows.stop), parts == number


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
    for value, box, region in connected_regions(mask, skip=(0, IGNORE_LABEL)):
        area = int(region.sum())
        if area >= min_area * mask.size:
            objects.append(MaskObject(value, box, area, float(confidence[region].mean()), region))
    return sorted(objects, key=lambda item: (item.value, -item.area, item.box[1], item.box[0]))


def region_box(region: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) in pixels, end exclusive, of a region ``(H, W)`` bool that has a pixel."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def seen_parts(objects: Sequence[MaskObject]) -> list[MaskObject]:
    """The objects as far as none lies over them, the smaller over the larger; one that is hidden is left out."""
    if not objects:
        return []
    parts: dict[int, MaskObject] = {}
    taken = np.zeros_like(objects[0].region)
    for place in sorted(range(len(objects)), key=lambda place: objects[place].area):
        item = objects[place]
        region = item.region & ~taken
        if region.any():
            parts[place] = replace(item, box=region_box(region), area=int(region.sum()), region=region)
            taken = taken | region
    return [parts[place] for place in sorted(parts)]


def instance_mask(objects: list[MaskObject], shape: tuple[int, int]) -> np.ndarray:
    """``(H, W)`` uint16: 0 where there is no object, i + 1 at the pixels of object i."""
    instances = np.zeros(shape, dtype=np.uint16)
    for number, item in enumerate(objects, 1):
        instances[item.region] = number
    return instances


def region_outlines(region: np.ndarray) -> list[np.ndarray]:
    """Outlines ``(P, 2)`` of x (to the right), y (down) along the borders of pixels; the image's corner is 0, 0.

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
            turned = _next_at(corner, direction)
            chosen = turned if turned in ends else ends[0]
            ends.remove(chosen)
            if not ends:
                del steps[corner]
            new_direction = (chosen[0] - corner[0], chosen[1] - corner[1])
            if new_direction != direction:
                outline.append(corner)
            corner, direction = chosen, new_direction
            if corner == first and _next_at(corner, direction) not in steps.get(corner, ()):
                break
        points = np.array(outline)
        # the start may lie on a straight line
        if _turn(points[-1], points[0], points[1]) == 0:
            points = points[1:]
        outlines.append(points)
    return outlines


def region_of_outlines(outlines: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """``(H, W)`` bool: the region that outlines along the borders of pixels enclose, holes left out.

    Args:
        outlines: as :func:`region_outlines` gives them, in any order.
        shape: (H, W) of the image.

    Raises:
        ValueError: an outline that leaves the pixels' borders or the image.
    """
    crossings = np.zeros((shape[0], shape[1] + 1), dtype=np.uint8)
    for points in outlines:
        after = np.roll(points, -1, axis=0)
        if (points != np.rint(points)).any() or (points != after).all(axis=1).any():
            raise ValueError("an outline leaves the borders of the pixels; trace it from the region again.")
        if len(points) and ((points < 0).any() or (points > (shape[1], shape[0])).any()):
            raise ValueError(f"an outline leaves the image of {shape[1]} x {shape[0]} pixels.")
        for (x, y), (next_x, next_y) in zip(points.astype(int), after.astype(int)):
            if x == next_x:
                crossings[min(y, next_y) : max(y, next_y), x] ^= 1
    # a pixel is inside where an odd number of borders lies to its left
    return np.bitwise_xor.accumulate(crossings, axis=1)[:, :-1].astype(bool)


def polygon_area(points: np.ndarray) -> float:
    """Signed area of an outline ``(P, 2)`` in pixels, positive when it runs clockwise on the screen."""
    x, y = points[:, 0], points[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _next_at(corner: tuple[int, int], direction: tuple[int, int]) -> tuple[int, int]:
    """Where an outline goes on from a corner that it stays around: to its right."""
    return corner[0] - direction[1], corner[1] + direction[0]


def _turn(before: np.ndarray, point: np.ndarray, after: np.ndarray) -> int:
    first, second = point - before, after - point
    return int(first[0] * second[1] - first[1] * second[0])

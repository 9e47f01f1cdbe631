"""Polygons that a format's readers fill again to an object's very pixels.

A dataset's outlines run along the borders of pixels (:func:`.mask_regions.region_outlines`). Readers fill polygons in
two ways: pycocotools and Detectron2 ask whether a pixel's centre lies inside; Ultralytics and supervision cut or round
corners to whole pixels, and OpenCV, which they fill with, paints the border, too. So polygons are drawn a little
inside:

grid      left and upper border    right and lower border          exact in
borders   x + 1/256                x - 1/256                       centres; OpenCV where corners are cut (Ultralytics)
pixels    x + 1/256                x - 1/2 - 1/256                 OpenCV, cut or rounded (Ultralytics, supervision)

Holes are joined to the outline around them by a bridge, walked there and back, through pixels of the object itself.

Shapes: an outline or polygon is closed and has P corners, (x, y) each.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..mask_regions import polygon_area

GRIDS = ("borders", "pixels")
# far more than the rounding of a reader that computes in float32, far less than what could move a border by a pixel
_INSET = 1 / 256
# a bridge runs here in its row of pixels: neither through their centres nor on their borders
_BRIDGE = 1 / 4
# corners whose distances are in memory together
_AT_ONCE = 64


def part_polygons(outlines: Sequence[np.ndarray], grid: str) -> list[np.ndarray]:
    """A polygon ``(P, 2)`` float64 for each connected part of an object, with its holes.

    Args:
        outlines: of the object, see :func:`.mask_regions.region_outlines`.
        grid: one of :data:`GRIDS`.
    """
    outlines = [np.asarray(points, np.float64) for points in outlines]
    walks = [_Walk(points, grid) for points in outlines]
    borders = _left_borders(outlines)
    # a hole's bridge leads to the left: a hole further right is finished before the outline that it leads to
    holes = [number for number, points in enumerate(outlines) if polygon_area(points) < 0]
    for number in sorted(holes, key=lambda number: -outlines[number][:, 0].min()):
        x, row, edge = _leftmost_row(outlines[number])
        found = borders[(borders["top"] <= row) & (borders["bottom"] > row) & (borders["x"] < x)]
        end = found[found["x"].argmax()]
        bridge = walks[number].from_edge(edge, row + _BRIDGE)
        walks[end["outline"]].add_detour(end["edge"], row + _BRIDGE, bridge)
    inner = set(holes)
    return [walk.points() for number, walk in enumerate(walks) if number not in inner]


def single_polygon(outlines: Sequence[np.ndarray], grid: str) -> np.ndarray:
    """One polygon ``(P, 2)`` float64 for the whole object, for formats that hold no more.

    Parts are joined by bridges over what lies between them. Those enclose nothing, but OpenCV paints them: lines as
    thin as a pixel.

    Args:
        outlines: of the object, see :func:`.mask_regions.region_outlines`.
        grid: one of :data:`GRIDS`.
    """
    joined, *rest = sorted(part_polygons(outlines, grid), key=lambda points: -abs(polygon_area(points)))
    if not rest:
        return joined
    corners, ends = np.concatenate(rest), np.cumsum([len(points) for points in rest])
    # of each corner of the parts that are not joined yet: how far what is joined is, and the corner there
    distances, nearest = np.full(len(corners), np.inf), np.empty_like(corners)
    added = joined
    for _ in rest:
        _bring_nearer(distances, nearest, corners, added)
        # the nearest part next, so that bridges are short
        place = int(distances.argmin())
        number = int(np.searchsorted(ends, place, side="right"))
        points = rest[number]
        part = slice(ends[number] - len(points), ends[number])
        there = place - part.start
        here = int(np.flatnonzero((joined == nearest[place]).all(axis=1))[0])
        # along pixel borders: a slanting bridge may run through a pixel's centre, where readers ask what is inside
        corner = np.array([[points[there, 0], joined[here, 1]]])
        added = np.concatenate([corner, points[there:], points[: there + 1], corner])
        joined = np.concatenate([joined[: here + 1], added, joined[here:]])
        # passed over from now on
        distances[part], corners[part] = np.inf, np.nan
    return joined


def _bring_nearer(distances: np.ndarray, nearest: np.ndarray, corners: np.ndarray, added: np.ndarray) -> None:
    """Update in place, for each of ``corners (M, 2)``, the squared distance ``(M,)`` and the nearest ``(M, 2)`` of
    what is joined, to which ``added (N, 2)`` comes."""
    for start in range(0, len(added), _AT_ONCE):
        some = added[start : start + _AT_ONCE]
        gaps = ((corners[:, None] - some[None]) ** 2).sum(-1)
        found = gaps.argmin(axis=1)
        gaps = gaps[np.arange(len(corners)), found]
        # what is not a number is never nearer
        closer = gaps < distances
        distances[closer], nearest[closer] = gaps[closer], some[found[closer]]


def num_parts(outlines: Sequence[np.ndarray]) -> int:
    """Connected parts of an object, which touch at corners at most."""
    return sum(polygon_area(points) > 0 for points in outlines)


class _Walk:
    """An outline drawn a little inside of the object, and detours that leave its edges; edge k follows corner k."""

    def __init__(self, points: np.ndarray, grid: str):
        steps = np.sign(np.roll(points, -1, axis=0) - points)
        # to the right of each step, where the object is
        inwards = np.stack([-steps[:, 1], steps[:, 0]], axis=1)
        towards = inwards + np.roll(inwards, 1, axis=0)
        back = _INSET + (0.5 if grid == "pixels" else 0.0)
        self._corners = points + np.where(towards > 0, _INSET, np.where(towards < 0, -back, 0.0))
        self._downwards = steps[:, 1] > 0
        self._detours: dict[int, list[tuple[float, np.ndarray]]] = {}

    def add_detour(self, edge: int, y: float, points: np.ndarray) -> None:
        """Go along ``points``, and back to where they start, at height ``y`` of a vertical edge."""
        start = np.array([[self._corners[edge, 0], y]])
        self._detours.setdefault(int(edge), []).append((y, np.concatenate([start, points, start])))

    def from_edge(self, edge: int, y: float) -> np.ndarray:
        """The whole walk from height ``y`` of a vertical edge without detours, and back there."""
        start = np.array([[self._corners[edge, 0], y]])
        return np.concatenate([start, self.points(int(edge) + 1), start])

    def points(self, first: int = 0) -> np.ndarray:
        """The walk from a corner, not closed."""
        pieces = []
        for place in range(first, first + len(self._corners)):
            edge = place % len(self._corners)
            pieces.append(self._corners[edge : edge + 1])
            order = sorted(self._detours.get(edge, ()), key=lambda item: item[0], reverse=not self._downwards[edge])
            pieces += [points for _, points in order]
        return np.concatenate(pieces)


def _left_borders(outlines: Sequence[np.ndarray]) -> Any:
    """The vertical edges that have the object to their right: a record array of x, rows, outline and edge."""
    entries = []
    for number, points in enumerate(outlines):
        after = np.roll(points, -1, axis=0)
        for edge in np.flatnonzero(after[:, 1] < points[:, 1]):
            entries.append((points[edge, 0], after[edge, 1], points[edge, 1], number, edge))
    kinds = [("x", float), ("top", float), ("bottom", float), ("outline", int), ("edge", int)]
    return np.array(entries, dtype=kinds)


def _leftmost_row(hole: np.ndarray) -> tuple[float, float, int]:
    """x, upper row and number of a vertical edge of a hole that lies furthest to the left."""
    after = np.roll(hole, -1, axis=0)
    x = hole[:, 0].min()
    edge = int(np.flatnonzero((hole[:, 0] == x) & (after[:, 0] == x))[0])
    return float(x), float(min(hole[edge, 1], after[edge, 1])), edge

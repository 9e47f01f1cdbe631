"""From a mask to its objects: connected regions with their boxes, areas, scores and polygons."""

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

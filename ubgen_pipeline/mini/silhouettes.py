"""Outlines of the mini world's objects: ten classes the mini models know and ten held back as novel ones.

Every outline is a list of closed rings of points in the unit disc, x to the right and y down. The first ring is
filled, the following ones are cut out of it.
"""

import math
from collections.abc import Callable

Ring = list[tuple[float, float]]


def _polar(radius: Callable[[float], float], num_points: int = 96) -> Ring:
    """A ring of points at ``radius(angle)``, angle 0 pointing up."""
    angles = [2 * math.pi * i / num_points for i in range(num_points)]
    return [(radius(a) * math.sin(a), -radius(a) * math.cos(a)) for a in angles]


def _polygon(num_corners: int, inner_radius: float = 1.0) -> Ring:
    """A regular polygon, or a star where every second corner lies at ``inner_radius``."""
    return _polar(lambda a: 1.0 if round(a * num_corners / (2 * math.pi)) % 2 == 0 else inner_radius, num_corners)


def _heart() -> Ring:
    points = []
    for i in range(96):
        t = 2 * math.pi * i / 96
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 17.5, -(y + 2.5) / 17.5))
    return points


def _crescent() -> Ring:
    """The unit disc without a disc of radius 0.8 centred at (0.45, 0)."""
    x = (1 - 0.8**2 + 0.45**2) / (2 * 0.45)
    outer_from, inner_from = math.acos(x), math.acos((x - 0.45) / 0.8)
    outer = [outer_from + (2 * math.pi - 2 * outer_from) * i / 64 for i in range(65)]
    inner = [inner_from + (2 * math.pi - 2 * inner_from) * i / 64 for i in range(65)]
    ring = [(math.cos(a), math.sin(a)) for a in outer]
    return ring + [(0.45 + 0.8 * math.cos(a), 0.8 * math.sin(a)) for a in reversed(inner)]


def _cross(arm: float = 0.34) -> Ring:
    corners = [(-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)]
    return [(x * 0.97, y * 0.97) for x, y in corners + [(-x, -y) for x, y in corners]]


def _teardrop() -> Ring:
    return [
        (0.62 * math.sin(t) * math.sin(t / 2) * 1.25, -math.cos(t)) for t in (2 * math.pi * i / 96 for i in range(96))
    ]


CLASS_OUTLINES: dict[str, list[Ring]] = {
    "circle": [_polar(lambda a: 0.92)],
    "square": [[(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]],
    "triangle": [[(0, -1), (0.95, 0.75), (-0.95, 0.75)]],
    "star": [_polygon(10, inner_radius=0.42)],
    "heart": [_heart()],
    "cross": [_cross()],
    "crescent": [_crescent()],
    "ring": [_polar(lambda a: 0.97), _polar(lambda a: 0.55)],
    "arrow": [[(0, -1), (0.85, -0.1), (0.34, -0.1), (0.34, 1), (-0.34, 1), (-0.34, -0.1), (-0.85, -0.1)]],
    "diamond": [[(0, -1), (0.62, 0), (0, 1), (-0.62, 0)]],
}

NOVEL_OUTLINES: dict[str, list[Ring]] = {
    "hexagon": [_polygon(6)],
    "teardrop": [_teardrop()],
    "semicircle": [[(math.cos(math.pi * i / 48), 0.45 - math.sin(math.pi * i / 48)) for i in range(49)]],
    "trapezoid": [[(-0.5, -0.65), (0.5, -0.65), (0.95, 0.65), (-0.95, 0.65)]],
    "bolt": [[(0.2, -1), (-0.6, 0.15), (-0.1, 0.15), (-0.3, 1), (0.6, -0.25), (0.08, -0.25), (0.5, -1)]],
    "hourglass": [[(-0.75, -0.95), (0.75, -0.95), (0.15, 0), (0.75, 0.95), (-0.75, 0.95), (-0.15, 0)]],
    "chevron": [[(-0.9, -0.1), (0, -0.9), (0.9, -0.1), (0.9, 0.7), (0, -0.1), (-0.9, 0.7)]],
    "flower": [_polar(lambda a: 0.72 + 0.28 * math.cos(5 * a))],
    "gear": [_polar(lambda a: 0.97 if math.sin(8 * a) > 0 else 0.7, 192), _polar(lambda a: 0.3)],
    "frame": [
        [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        [(-0.45, -0.45), (0.45, -0.45), (0.45, 0.45), (-0.45, 0.45)],
    ],
}

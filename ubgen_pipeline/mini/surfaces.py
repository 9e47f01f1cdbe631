"""Surfaces of the mini world: ten backgrounds and ten fill textures.

A background is a function of a random generator giving an RGB array ``(64, 64, 3)`` in [0, 255]. A texture gives the
share of its second colour at every pixel, ``(64, 64)`` in [0, 1].
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

IMAGE_SIZE = 64
_Y, _X = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE].astype(np.float32)


def _smooth_noise(rng: np.random.Generator, cells_x: int, cells_y: int | None = None) -> np.ndarray:
    """Noise ``(64, 64)``, roughly in [0, 1], that varies over ``cells_x`` by ``cells_y`` cells."""
    grid = rng.random((cells_y or cells_x, cells_x), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def _blend(share: np.ndarray, first: tuple[int, int, int], second: tuple[int, int, int]) -> np.ndarray:
    share = np.clip(share, 0, 1)[..., None]
    return (1 - share) * np.asarray(first, np.float32) + share * np.asarray(second, np.float32)


def _sand(rng):
    return _blend(0.6 * _smooth_noise(rng, 8) + 0.4 * _smooth_noise(rng, 32), (188, 152, 94), (222, 190, 130))


def _grass(rng):
    return _blend(0.4 * _smooth_noise(rng, 10) + 0.6 * _smooth_noise(rng, 32), (40, 92, 30), (112, 176, 62))


def _sky(rng):
    clouds = 0.7 * _smooth_noise(rng, 5) + 0.3 * _smooth_noise(rng, 11)
    return _blend((clouds - 0.45) * 4, (86, 152, 232), (250, 252, 255))


def _brick(rng):
    row = (_Y + rng.integers(10)) // 10
    column = (_X + rng.integers(16) + 8 * (row % 2)) % 16
    mortar = column < 2
    mortar |= np.diff(row, axis=0, append=row[-1:] + 1) > 0
    colour = _blend(0.4 + 0.4 * (_smooth_noise(rng, 24) - 0.5), (150, 58, 40), (190, 88, 62))
    colour[mortar] = (205, 190, 172)
    return colour


def _water(rng):
    waves = np.sin(_Y * 0.85 + 5 * _smooth_noise(rng, 5) + rng.random() * 6.3)
    return _blend(0.5 + 0.5 * waves, (22, 86, 138), (96, 172, 204))


def _night(rng):
    colour = _blend(_smooth_noise(rng, 4), (6, 6, 26), (18, 18, 52))
    for y, x in rng.integers(0, IMAGE_SIZE - 1, (22, 2)):
        colour[y : y + 2, x : x + 2] = (232, 232, 250)
    return colour


def _snow(rng):
    return _blend(0.7 * _smooth_noise(rng, 6) + 0.3 * _smooth_noise(rng, 24), (206, 214, 228), (250, 250, 255))


def _wood(rng):
    grain = np.sin(_X * 0.8 + 6 * _smooth_noise(rng, 5, 3) + rng.random() * 6.3)
    return _blend(0.5 + 0.5 * grain, (116, 74, 40), (168, 118, 70))


def _lava(rng):
    crust = 0.7 * _smooth_noise(rng, 6) + 0.3 * _smooth_noise(rng, 12)
    return _blend((crust - 0.4) * 5, (58, 10, 8), (250, 130, 24))


def _wall(rng):
    """One flat colour, drawn from muted tones."""
    return np.broadcast_to(rng.uniform(70, 185, 3).astype(np.float32), (IMAGE_SIZE, IMAGE_SIZE, 3)).copy()


BACKGROUNDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "sand": _sand,
    "grass": _grass,
    "sky": _sky,
    "brick": _brick,
    "water": _water,
    "night": _night,
    "snow": _snow,
    "wood": _wood,
    "lava": _lava,
    "wall": _wall,
}


def _wave(coordinate: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    return (np.sin(2 * np.pi * (coordinate / period + rng.random())) > 0).astype(np.float32)


def _plain(rng, cx, cy):
    return np.zeros_like(_X)


def _stripes(rng, cx, cy):
    return _wave(_X + _Y, 10, rng)


def _dots(rng, cx, cy):
    x, y = (_X + rng.random() * 8) % 8 - 4, (_Y + rng.random() * 8) % 8 - 4
    return (x**2 + y**2 < 6.5).astype(np.float32)


def _checks(rng, cx, cy):
    return np.abs(_wave(_X, 12, rng) - _wave(_Y, 12, rng))


def _bands(rng, cx, cy):
    return _wave(_Y, 8, rng)


def _bars(rng, cx, cy):
    return _wave(_X, 8, rng)


def _grid(rng, cx, cy):
    x, y = (_X + rng.integers(8)) % 8, (_Y + rng.integers(8)) % 8
    return ((x < 2) | (y < 2)).astype(np.float32)


def _zigzag(rng, cx, cy):
    return _wave(_Y + np.abs(_X % 12 - 6), 9, rng)


def _rings(rng, cx, cy):
    return _wave(np.hypot(_X - cx, _Y - cy), 9, rng)


def _fade(rng, cx, cy):
    """From one colour at the top of the object to the other at its bottom."""
    return np.clip((_Y - cy) / 28 + 0.5, 0, 1)


TEXTURES: dict[str, Callable[[np.random.Generator, float, float], np.ndarray]] = {
    "plain": _plain,
    "striped": _stripes,
    "dotted": _dots,
    "checked": _checks,
    "banded": _bands,
    "barred": _bars,
    "gridded": _grid,
    "zigzag": _zigzag,
    "ringed": _rings,
    "faded": _fade,
}

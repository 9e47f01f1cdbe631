"""The mini world: 64x64 scenes of one textured silhouette, or two, on a background, every factor known.

Bias is a dial. With probability ``bias`` a scene has its class's own background *and*, drawn apart, with the same
probability its class's own texture; otherwise the factor is uniform over all ten. At ``bias=0`` the factors are
independent of the class.

    factors = draw_factors("star", bias=0.95, rng=np.random.default_rng(7))
    scene = render_scene(factors)   # scene.image (64, 64, 3) uint8, scene.mask (64, 64) bool, scene.box

Nothing here needs torch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from .silhouettes import CLASS_OUTLINES, NOVEL_OUTLINES
from .surfaces import BACKGROUNDS, IMAGE_SIZE, TEXTURES

CLASS_NAMES: tuple[str, ...] = tuple(CLASS_OUTLINES)
NOVEL_CLASS_NAMES: tuple[str, ...] = tuple(NOVEL_OUTLINES)
BACKGROUND_NAMES: tuple[str, ...] = tuple(BACKGROUNDS)
TEXTURE_NAMES: tuple[str, ...] = tuple(TEXTURES)

OWN_BACKGROUND: dict[str, str] = dict(zip(CLASS_NAMES, BACKGROUND_NAMES))
OWN_TEXTURE: dict[str, str] = dict(zip(CLASS_NAMES, TEXTURE_NAMES))

_OUTLINES = CLASS_OUTLINES | NOVEL_OUTLINES
_SUPERSAMPLING = 4
_MIN_CONTRAST = 90.0
# pixels; two of the largest side by side or in opposite corners fit
_PAIR_RADII = (9, 14)


@dataclass(frozen=True)
class SceneFactors:
    """Everything that determines a scene.

    ``centre`` and ``radius`` are in pixels, ``turn`` in degrees clockwise, colours are RGB in [0, 255].
    ``surface_seed`` draws the phase and the grain of background and texture.
    """

    class_name: str
    texture: str
    background: str
    centre: tuple[float, float]
    radius: float
    turn: float
    colours: tuple[tuple[int, int, int], tuple[int, int, int]]
    surface_seed: int

    @property
    def caption(self) -> str:
        """The caption that the mini CLIP is trained with."""
        return f"a photo of a {self.texture} {self.class_name} on {self.background}"


@dataclass(frozen=True)
class Scene:
    """A scene: ``image (64, 64, 3)`` uint8, ``mask (64, 64)`` bool, ``box`` (x0, y0, x1, y1), end exclusive."""

    image: np.ndarray
    mask: np.ndarray
    box: tuple[int, int, int, int]
    factors: SceneFactors


@dataclass(frozen=True)
class PairScene:
    """A scene of two objects: ``image (64, 64, 3)`` uint8, ``masks (2, 64, 64)`` bool, the factors of each object."""

    image: np.ndarray
    masks: np.ndarray
    factors: tuple[SceneFactors, SceneFactors]


def _distinct_colours(rng: np.random.Generator, *backgrounds: np.ndarray):
    """Two colours well apart from each other and from the backgrounds' means, so that every silhouette is visible."""
    taken = [background.reshape(-1, 3).mean(axis=0) for background in backgrounds]
    while len(taken) < len(backgrounds) + 2:
        colour = rng.integers(0, 256, 3)
        if all(np.linalg.norm(colour - other) > _MIN_CONTRAST for other in taken):
            taken.append(colour)
    first, second = ((int(red), int(green), int(blue)) for red, green, blue in taken[-2:])
    return first, second


def _contrast(factors: SceneFactors, background: np.ndarray) -> float:
    """Distance of the nearer of the object's colours to the background's mean."""
    mean = background.reshape(-1, 3).mean(axis=0)
    return min(float(np.linalg.norm(np.array(colour) - mean)) for colour in factors.colours)


def draw_factors(
    class_name: str,
    *,
    bias: float,
    rng: np.random.Generator,
    texture: str | None = None,
    background: str | None = None,
) -> SceneFactors:
    """Draw the factors of one scene of a class.

    Args:
        class_name: one of ``CLASS_NAMES`` or ``NOVEL_CLASS_NAMES``.
        bias: probability in [0, 1] of the class's own background, and of its own texture. Novel classes own none.
        rng: source of every random choice.
        texture: fixes the texture.
        background: fixes the background.

    Raises:
        ValueError: if the class is unknown or ``bias`` is outside [0, 1].
    """
    if class_name not in _OUTLINES:
        raise ValueError(f"class_name {class_name!r} is not in the mini world; choose one of {list(_OUTLINES)}")
    if not 0 <= bias <= 1:
        raise ValueError(f"bias must lie in [0, 1], got {bias}")
    own_background, own_texture = rng.random(2) < bias
    any_background, any_texture = rng.choice(BACKGROUND_NAMES), rng.choice(TEXTURE_NAMES)
    if background is None:
        background = OWN_BACKGROUND.get(class_name) if own_background else None
    if texture is None:
        texture = OWN_TEXTURE.get(class_name) if own_texture else None
    background, texture = background or str(any_background), texture or str(any_texture)
    radius = rng.uniform(14, 21)
    surface_seed = int(rng.integers(2**31))
    return SceneFactors(
        class_name=class_name,
        texture=texture,
        background=background,
        centre=_point(rng, radius + 1, IMAGE_SIZE - radius - 1),
        radius=float(radius),
        turn=float(rng.uniform(-15, 15)),
        colours=_distinct_colours(rng, BACKGROUNDS[background](np.random.default_rng(surface_seed))),
        surface_seed=surface_seed,
    )


def _point(rng: np.random.Generator, low: float, high: float) -> tuple[float, float]:
    x, y = rng.uniform(low, high, 2)
    return float(x), float(y)


def _coverage(factors: SceneFactors) -> np.ndarray:
    """Share of every pixel that the silhouette covers, ``(64, 64)`` in [0, 1]."""
    size = IMAGE_SIZE * _SUPERSAMPLING
    canvas = Image.new("L", (size, size))
    draw = ImageDraw.Draw(canvas)
    cos, sin = math.cos(math.radians(factors.turn)), math.sin(math.radians(factors.turn))
    cx, cy = factors.centre
    for i, ring in enumerate(_OUTLINES[factors.class_name]):
        points = [
            (cx + factors.radius * (x * cos - y * sin), cy + factors.radius * (x * sin + y * cos)) for x, y in ring
        ]
        draw.polygon([(x * _SUPERSAMPLING, y * _SUPERSAMPLING) for x, y in points], fill=0 if i else 255)
    return np.asarray(canvas.reduce(_SUPERSAMPLING), np.float32) / 255


def _painted(canvas: np.ndarray, factors: SceneFactors) -> tuple[np.ndarray, np.ndarray]:
    """The object over a canvas ``(64, 64, 3)`` in [0, 255], and its mask ``(64, 64)`` bool."""
    rng = np.random.default_rng((factors.surface_seed, 1))
    share = TEXTURES[factors.texture](rng, *factors.centre)[..., None]
    first, second = (np.asarray(colour, np.float32) for colour in factors.colours)
    coverage = _coverage(factors)
    return canvas + coverage[..., None] * ((1 - share) * first + share * second - canvas), coverage >= 0.5


def render_scene(factors: SceneFactors) -> Scene:
    """Draw a scene; equal factors give equal pixels."""
    background = BACKGROUNDS[factors.background](np.random.default_rng(factors.surface_seed))
    image, mask = _painted(background, factors)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Scene(np.clip(image + 0.5, 0, 255).astype(np.uint8), mask, box, factors)


def scenes(
    num_scenes: int, *, bias: float, seed: int, class_names: Sequence[str] = CLASS_NAMES, start: int = 0
) -> Iterator[Scene]:
    """Scenes ``start … start + num_scenes`` of an endless balanced series; scene i depends on ``(seed, i)`` alone."""
    for index in range(start, start + num_scenes):
        rng = np.random.default_rng((seed, index))
        yield render_scene(draw_factors(class_names[index % len(class_names)], bias=bias, rng=rng))


def pair_scenes(
    num_scenes: int, *, bias: float, seed: int, class_names: Sequence[str] = CLASS_NAMES, start: int = 0
) -> Iterator[PairScene]:
    """Scenes of two objects of different classes that do not overlap, an endless series as that of :func:`scenes`.

    The first object's class is balanced, and it is the one whose background the scene has with probability ``bias``.
    Each object has its own class's texture with that probability. Objects are smaller than in scenes of one.
    """
    for index in range(start, start + num_scenes):
        rng = np.random.default_rng((seed, index))
        name = class_names[index % len(class_names)]
        other = str(rng.choice([other for other in class_names if other != name]))
        first = draw_factors(name, bias=bias, rng=rng)
        second = draw_factors(other, bias=bias, rng=rng, background=first.background)
        radii = [float(radius) for radius in rng.uniform(*_PAIR_RADII, 2)]
        centres = [(0.0, 0.0)] * 2
        while math.dist(*centres) < sum(radii) + 1:
            centres = [_point(rng, radius + 1, IMAGE_SIZE - radius - 1) for radius in radii]
        first, second = (
            replace(factors, centre=centre, radius=radius, surface_seed=first.surface_seed)
            for factors, centre, radius in zip((first, second), centres, radii)
        )
        image = BACKGROUNDS[first.background](np.random.default_rng(first.surface_seed))
        image, mask = _painted(image, first)
        image, other_mask = _painted(image, second)
        image = np.clip(image + 0.5, 0, 255).astype(np.uint8)
        yield PairScene(image, np.stack([mask, other_mask]), (first, second))


def novel_scenes(num_scenes: int, *, seed: int, start: int = 0) -> Iterator[Scene]:
    """Unbiased scenes of the ten silhouettes that no mini model was trained on."""
    return scenes(num_scenes, bias=0.0, seed=seed, class_names=NOVEL_CLASS_NAMES, start=start)


def cue_conflict_scenes(num_per_pair: int, *, seed: int) -> Iterator[Scene]:
    """Shape of one class with the texture of another, on uniform backgrounds, for all 90 pairs of classes.

    The counterpart of the texture-shape cue-conflict images (Geirhos et al. 2019).
    """
    pairs = [(shape, other) for shape in CLASS_NAMES for other in CLASS_NAMES if shape != other]
    for index in range(num_per_pair * len(pairs)):
        shape, other = pairs[index % len(pairs)]
        rng = np.random.default_rng((seed, index))
        yield render_scene(draw_factors(shape, bias=0.0, rng=rng, texture=OWN_TEXTURE[other]))


def background_swap_scenes(num_scenes: int, *, seed: int, kind: str) -> Iterator[Scene]:
    """ImageNet-9's Mixed-Same (``kind="same"``) and Mixed-Rand (``kind="random"``) sets.

    A foreground of uniform texture goes on a background that belongs to its own class, or to a class drawn at random.
    Equal seeds give the same foregrounds in both kinds, with colours that are well apart from both backgrounds.

    Raises:
        ValueError: if ``kind`` is neither.
    """
    if kind not in ("same", "random"):
        raise ValueError(f"kind must be 'same' or 'random', got {kind!r}")
    for index in range(num_scenes):
        rng = np.random.default_rng((seed, index))
        class_name = CLASS_NAMES[index % len(CLASS_NAMES)]
        factors = draw_factors(class_name, bias=0.0, rng=rng)
        donors = {"same": class_name, "random": str(rng.choice(CLASS_NAMES))}
        surfaces = [
            BACKGROUNDS[OWN_BACKGROUND[donor]](np.random.default_rng(factors.surface_seed))
            for donor in donors.values()
        ]
        # the colours were chosen for the background that is replaced
        if min(_contrast(factors, surface) for surface in surfaces) <= _MIN_CONTRAST:
            factors = replace(factors, colours=_distinct_colours(rng, *surfaces))
        yield render_scene(replace(factors, background=OWN_BACKGROUND[donors[kind]]))

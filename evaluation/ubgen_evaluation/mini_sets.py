"""The mini world's counterparts of the published sets, rendered with exact truth.

cue conflict    the shape of one class with the texture of another
context         scenes with 0 to 3 of background, texture and turn unlike what the biased world shows
Mixed-Same      a foreground on its own class's background; Mixed-Rand: on a random class's
transfer        silhouettes that no mini model was trained on

Each set has a ``split``: ``test`` for figures that are reported, and ``validation``, of other scenes, for the choice
of settings.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ubgen_pipeline.mini.scenes import (
    BACKGROUND_NAMES,
    CLASS_NAMES,
    NOVEL_CLASS_NAMES,
    OWN_BACKGROUND,
    OWN_TEXTURE,
    TEXTURE_NAMES,
    Scene,
    background_swap_scenes,
    cue_conflict_scenes,
    draw_factors,
    novel_scenes,
    render_scene,
    scenes,
)

# a class's scenes of the biased world have its own background and texture, and turn by at most 15 degrees
_LEAST_UNCOMMON_TURN = 60.0
TEST_SEED, CUE_SEED, CONTEXT_SEED, SWAP_SEED, TRANSFER_SEED = 900_001, 900_002, 900_003, 900_004, 900_005
# what a split adds to those seeds; a scene depends on (seed, index), so no two splits share one
SPLITS = {"test": 0, "validation": 100}


@dataclass(frozen=True)
class SceneArrays:
    """``images (N, 64, 64, 3)`` uint8 and ``labels (N,)`` int64 of N scenes."""

    images: np.ndarray
    labels: np.ndarray


def validation_scenes(num_scenes: int, *, split: str = "test", bias: float = 0.0) -> SceneArrays:
    """Scenes of the ten classes, unbiased if not told otherwise: the counterpart of a validation set."""
    return _arrays(scenes(num_scenes, bias=bias, seed=_seed(TEST_SEED, split)))


def cue_conflict_arrays(num_scenes: int, *, split: str = "test") -> tuple[SceneArrays, np.ndarray]:
    """Stimuli of at least ``num_scenes``, labelled by shape, and the class ``(N,)`` that owns each one's texture."""
    rendered = list(cue_conflict_scenes(-(-num_scenes // 90), seed=_seed(CUE_SEED, split)))
    owner = {TEXTURE_NAMES.index(OWN_TEXTURE[name]): label for label, name in enumerate(CLASS_NAMES)}
    textures = [owner[TEXTURE_NAMES.index(scene.factors.texture)] for scene in rendered]
    return _arrays(rendered), np.array(textures)


def context_arrays(num_scenes: int, *, split: str = "test") -> tuple[SceneArrays, np.ndarray]:
    """Scenes with equally many of 0, 1, 2 and 3 uncommon attributes, and that number ``(N,)``."""
    rendered, counts = [], []
    for index in range(num_scenes):
        rng = np.random.default_rng((_seed(CONTEXT_SEED, split), index))
        name = CLASS_NAMES[index % len(CLASS_NAMES)]
        count = index // len(CLASS_NAMES) % 4
        uncommon = set(rng.permutation(3)[:count].tolist())
        background = _other(BACKGROUND_NAMES, OWN_BACKGROUND[name], rng) if 0 in uncommon else OWN_BACKGROUND[name]
        texture = _other(TEXTURE_NAMES, OWN_TEXTURE[name], rng) if 1 in uncommon else OWN_TEXTURE[name]
        factors = draw_factors(name, bias=0.0, rng=rng, texture=texture, background=background)
        if 2 in uncommon:
            turn = float(rng.uniform(_LEAST_UNCOMMON_TURN, 360 - _LEAST_UNCOMMON_TURN))
            factors = type(factors)(**{**vars(factors), "turn": turn})
        rendered.append(render_scene(factors))
        counts.append(count)
    return _arrays(rendered), np.array(counts)


def background_swap_arrays(num_scenes: int, kind: str, *, split: str = "test") -> SceneArrays:
    """Mixed-Same (``kind="same"``) or Mixed-Rand (``"random"``), with the same foregrounds."""
    return _arrays(background_swap_scenes(num_scenes, seed=_seed(SWAP_SEED, split), kind=kind))


def transfer_arrays(num_train: int, num_test: int, *, split: str = "test") -> tuple[SceneArrays, SceneArrays]:
    """Novel silhouettes to train a probe on, and others to test it on.

    Classes take turns, so the first rows of the training scenes are a balanced subset, and such subsets are nested.
    """
    seed = _seed(TRANSFER_SEED, split)
    train = _arrays(novel_scenes(num_train, seed=seed), NOVEL_CLASS_NAMES)
    return train, _arrays(novel_scenes(num_test, seed=seed, start=10_000_000), NOVEL_CLASS_NAMES)


def check_split(split: str) -> None:
    """Raise ValueError for a split that there is not."""
    if split not in SPLITS:
        raise ValueError(f"mini_split is {split!r}; choose one of {', '.join(SPLITS)}.")


def _seed(first: int, split: str) -> int:
    check_split(split)
    return first + SPLITS[split]


def _arrays(rendered: Iterable[Scene], class_names: tuple[str, ...] = CLASS_NAMES) -> SceneArrays:
    kept = list(rendered)
    labels = [class_names.index(scene.factors.class_name) for scene in kept]
    return SceneArrays(np.stack([scene.image for scene in kept]), np.array(labels))


def _other(names: tuple[str, ...], own: str, rng: np.random.Generator) -> str:
    return str(rng.choice([name for name in names if name != own]))

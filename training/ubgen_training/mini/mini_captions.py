"""Captions that name some of a scene's factors, and which scenes each caption is true of."""

import random

import torch

from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, TEXTURE_NAMES

from .scene_batches import SceneSet

UNNAMED = -1


def factor_table(data: SceneSet) -> torch.Tensor:
    """``(N, 3)`` int64: class, background and texture of every scene."""
    rows = [
        (CLASS_NAMES.index(f.class_name), BACKGROUND_NAMES.index(f.background), TEXTURE_NAMES.index(f.texture))
        for f in data.factors
    ]
    return torch.tensor(rows)


def draw_caption(factors: list[int], rng: random.Random) -> tuple[str, list[int]]:
    """A caption of a scene and the factors it names; ``UNNAMED`` stands for those it leaves open."""
    named = list(factors)
    for column, share in enumerate((0.1, 0.5, 0.5)):
        if rng.random() < share:
            named[column] = UNNAMED
    if named == [UNNAMED] * 3:
        named[0] = factors[0]
    thing = CLASS_NAMES[named[0]] if named[0] != UNNAMED else "object"
    if named[2] != UNNAMED:
        thing = f"{TEXTURE_NAMES[named[2]]} {thing}"
    place = f" on {BACKGROUND_NAMES[named[1]]}" if named[1] != UNNAMED else ""
    prefix = rng.choice(("", "photo of ", "a ", "a photo of a "))
    return prefix + thing + place, named


def true_pairs(factors: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
    """``(B, T)`` bool: caption t, naming ``named (T, 3)``, is true of scene b with ``factors (B, 3)``."""
    open_or_equal = (named[None] == UNNAMED) | (named[None] == factors[:, None])
    return open_or_equal.all(dim=2)

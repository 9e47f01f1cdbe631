"""Batches of rendered scenes for the mini model's own training."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch

from ubgen_pipeline.mini.scenes import CLASS_NAMES, SceneFactors, scenes

from .library_internals import computes_in_bfloat16


@dataclass(frozen=True)
class SceneSet:
    """``images (N, 3, 64, 64)`` uint8, ``labels (N,)`` int64 and the factors of every scene."""

    images: torch.Tensor
    labels: torch.Tensor
    factors: list[SceneFactors]

    def __len__(self) -> int:
        return len(self.labels)


def _render_range(start: int, num_scenes: int, bias: float, seed: int) -> tuple[np.ndarray, list[SceneFactors]]:
    rendered = list(scenes(num_scenes, bias=bias, seed=seed, start=start))
    return np.stack([scene.image for scene in rendered]), [scene.factors for scene in rendered]


def render_set(num_scenes: int, *, bias: float, seed: int, num_workers: int = 4) -> SceneSet:
    """Render the first ``num_scenes`` scenes of a series, in order, on several processes unless on one."""
    size = -(-num_scenes // num_workers)
    starts = range(0, num_scenes, size)
    lengths = [min(size, num_scenes - start) for start in starts]
    if num_workers == 1:
        parts = [_render_range(0, num_scenes, bias, seed)]
    else:
        # fork would copy torch's thread pool in a locked state
        with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(_render_range, starts, lengths, itertools.repeat(bias), itertools.repeat(seed)))
    images = torch.from_numpy(np.concatenate([images for images, _ in parts])).permute(0, 3, 1, 2).contiguous()
    factors = [factor for _, part in parts for factor in part]
    labels = torch.tensor([CLASS_NAMES.index(factor.class_name) for factor in factors])
    return SceneSet(images, labels, factors)


def to_unit_range(images: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] to float32 [-1, 1]."""
    return images.float() / 127.5 - 1


def index_batches(
    num_items: int, batch_size: int, *, seed: int, start_step: int, num_steps: int
) -> Iterator[torch.Tensor]:
    """Random index batches for steps ``start_step … num_steps``; batch s depends on ``(seed, s)`` alone."""
    for step in range(start_step, num_steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        yield torch.randint(num_items, (batch_size,), generator=generator)


def mixed_precision() -> torch.autocast:
    """bfloat16 autocast where the CPU computes in it; elsewhere it is emulated, many times slower, so float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=computes_in_bfloat16())

"""Seeds and noise of samples. A sample's noise depends on its seed alone: not on batch, device, processes or order."""

from collections.abc import Sequence
from numbers import Integral

import torch

from .sample_seeds import SEED_LIMIT, sample_seed

__all__ = ["condition_generators", "draw_latents", "sample_seed", "step_generators"]

# Separates the scheduler's step noise from the initial noise of the same seed; any fixed odd number would do.
_STEP_NOISE_STREAM = 0x5DEECE66D1CE4E5B
# and the noise of its conditioning from both
_CONDITION_STREAM = 0x2545F4914F6CDD1D


def draw_latents(seeds: Sequence[int], shape: tuple[int, int, int]) -> torch.Tensor:
    """Standard normal noise ``(B, C, H, W)`` float32 on the CPU; row i is drawn from ``seeds[i]`` alone.

    torch's CPU generator reads the low 32 bits of a seed, so among n samples with hashed seeds about n^2 / 2^33 pairs
    start from the same noise: none to speak of in 10,000 samples, 200 pairs in ImageNet's 1.3 million.

    Args:
        seeds: B integers in [0, 2**63).
        shape: ``(C, H, W)`` of one sample's latents.
    """
    rows = [torch.randn(shape, generator=generator) for generator in _generators(seeds)]
    return torch.stack(rows) if rows else torch.empty(0, *shape)


def step_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per sample for the noise that a scheduler adds at its steps (DDPM; DDIM with eta > 0).

    Its stream is independent of the initial noise that :func:`draw_latents` takes from the same seed: DDPM's first
    step would otherwise add the initial noise a second time.
    """
    return _generators([int(seed) ^ _STEP_NOISE_STREAM for seed in seeds])


def condition_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per sample for noise in its conditioning, independent of the other two streams."""
    return _generators([int(seed) ^ _CONDITION_STREAM for seed in seeds])


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < SEED_LIMIT:
            raise ValueError(f"seeds holds {seed!r}; give integers from 0 to {SEED_LIMIT - 1} (2**63 - 1).")
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]

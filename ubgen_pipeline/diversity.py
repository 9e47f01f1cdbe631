"""Diversity without training, as features of sampling: annealed conditioning, and guidance within an interval.

Each sample's noise comes from its own seed, and its statistics from its own tokens, so that an image does not depend
on the others of its batch.

Two things differ from the paper on CADS (Sadat et al. 2024). Mean and deviation are those of one sample's tokens; its
Algorithm 1 takes the whole batch's. The noise is multiplied by that deviation, so that one scale means the same
for text encoders whose features are larger or smaller; those of CLIP, for which the paper gives its numbers, have a
deviation of about 1.

Shapes: B samples, N denoiser rows (2B under guidance, unconditional half first), L tokens, D width of text features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .call_arguments import SampleBatch
from .conditioning import Conditioning, Tensors
from .diversity_settings import Cads
from .initial_latents import condition_generators
from .latent_denoising import Denoiser
from .sampling_features import SamplingFeature, Walk
from .scheduler_noise import noise_share


@dataclass(frozen=True)
class AnnealedConditioning(SamplingFeature):
    """Adds noise to what the denoiser is conditioned on, the less of it the less noise the latents have (CADS).

    What is guided away from stays whole.
    """

    schedule: Cads

    def start(self, pipeline: Any, batch: SampleBatch, walk: Walk) -> Walk:
        return replace(walk, denoiser=annealed_denoiser(pipeline, walk.denoiser, self.schedule, batch.seeds))


@dataclass(frozen=True)
class GuidanceInterval(SamplingFeature):
    """Guides at the steps whose latents have a share of noise within [low, high]; others take the conditional
    prediction, at half the cost (Kynkäänniemi et al. 2024).

    The share is sigma / (alpha + sigma) of x = alpha x0 + sigma noise: the paper's level s is a share of s / (1 + s).
    """

    low: float
    high: float

    def start(self, pipeline: Any, batch: SampleBatch, walk: Walk) -> Walk:
        shares = [noise_share(pipeline.scheduler, timestep) for timestep in walk.timesteps]
        # what a scheduler says of its levels is rounded
        guided = [step for step, share in enumerate(shares) if self.low - 1e-6 <= share <= self.high + 1e-6]
        if not guided:
            levels = ", ".join(f"{share:.2f}" for share in shares)
            raise ValueError(
                f"guidance_interval is {[self.low, self.high]}, within which none of the {len(shares)} steps lies;"
                f" their shares of noise are {levels}. Widen it, or take more steps."
            )
        return replace(walk, guided_steps=frozenset(guided))


def annealed_denoiser(pipeline: Any, denoiser: Denoiser, schedule: Cads, seeds: Sequence[int]) -> Denoiser:
    """The denoiser of B samples, whose conditioning is annealed at each call; the samples are its last B rows.

    Args:
        pipeline: whose ``noise_time`` says how far a timestep is.
        denoiser: as the loop takes it.
        schedule: of the annealing.
        seeds: B.
    """
    generators = condition_generators(seeds)

    def annealed(latents: torch.Tensor, timestep: torch.Tensor, conditioning: Any) -> torch.Tensor:
        # in a batch all samples are at one step
        gamma = schedule.gamma(pipeline.noise_time(timestep.reshape(-1)[0]))
        if gamma < 1:
            conditioning = annealed_conditioning(conditioning, gamma, schedule, generators)
        return denoiser(latents, timestep, conditioning)

    return annealed


def annealed_conditioning(
    conditioning: Conditioning, gamma: float, schedule: Cads, generators: Sequence[torch.Generator]
) -> Conditioning:
    """N rows, the last B of which have noise in everything that was made of their text.

    Args:
        conditioning: of N rows.
        gamma: share of the conditioning that is left, in [0, 1).
        schedule: its scale and rescaling.
        generators: B, on the CPU, of which each gives its row's noise.
    """
    masks = [conditioning[name] for name in conditioning.tensors if name.endswith("mask")]
    first = conditioning.num_rows - len(generators)
    changed: dict[str, Tensors] = {}
    for name, value in conditioning.tensors.items():
        if isinstance(value, list):
            rows = [_annealed(row, None, gamma, schedule, own) for row, own in zip(value[first:], generators)]
            changed[name] = [*value[:first], *rows]
        elif value.is_floating_point() and value.ndim > 1 and not name.endswith("mask"):
            # a number for each row is none of the text's, but that of a model whose guidance is embedded
            rows = []
            for row, own in zip(range(first, len(value)), generators):
                mask = next((mask[row] for mask in masks if value.ndim > 2 and mask.shape == value.shape[:2]), None)
                rows.append(_annealed(value[row], mask, gamma, schedule, own))
            changed[name] = torch.cat([value[:first], torch.stack(rows)])
    return Conditioning({**conditioning.tensors, **changed})


def _annealed(
    features: torch.Tensor, mask: torch.Tensor | None, gamma: float, schedule: Cads, generator: torch.Generator
) -> torch.Tensor:
    """One row, ``(L, D)`` or ``(D,)``, with noise (Eq. 3 and 4); tokens that ``mask (L,)`` says are not read stay."""
    is_read = torch.ones(len(features), dtype=torch.bool) if mask is None else mask.bool()
    whole = features[is_read.to(features.device)].float()
    # before it is filled up to the batch's longest: the noise of a row must not depend on the others' lengths
    noise = torch.randn(whole.shape, generator=generator).to(whole.device)
    mean, deviation = whole.mean(), whole.std()
    noisy = math.sqrt(gamma) * whole + schedule.scale * math.sqrt(1 - gamma) * deviation * noise
    if (own := noisy.std()) > 0:
        rescaled = (noisy - noisy.mean()) / own * deviation + mean
        noisy = schedule.psi * rescaled + (1 - schedule.psi) * noisy
    result = features.clone()
    result[is_read.to(features.device)] = noisy.to(features.dtype)
    return result

"""A rollout as the buffer that inner epochs take (sample, step) pairs from.

Shapes: R samples, T steps, B pairs, C x h x w latents.
"""

from dataclasses import dataclass

import torch

from ..rollouts.trainer import RolloutTensors
from .policy_sampler import Transitions


@dataclass(frozen=True)
class Rollout(RolloutTensors):
    """R samples on the CPU: ``latents (R, T + 1, C, h, w)`` from noise to clean, and the ``log_probs (R, T)`` that
    their steps had when they were taken; where ratios are normalised, their ``means (R, T, C, h, w)``, else None."""

    latents: torch.Tensor
    log_probs: torch.Tensor
    means: torch.Tensor | None = None

    def transitions(self, pairs: torch.Tensor, device: torch.device) -> Transitions:
        """The steps ``pairs (B, 2)`` name by sample and position."""
        sample, index = pairs.unbind(1)
        return Transitions(
            index.to(device),
            self.latents[sample, index].to(device),
            self.latents[sample, index + 1].to(device),
            None if self.means is None else self.means[sample, index].to(device),
        )

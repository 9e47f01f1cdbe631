"""A rollout as the buffer that inner epochs take (sample, step) pairs from, and the order they take them in.

Shapes: R samples, T steps, P of them trained, B pairs, C x h x w latents.
"""

from dataclasses import dataclass, fields

import torch

from ubgen_pipeline.initial_latents import sample_seed

from .policy_sampler import Transitions


@dataclass(frozen=True)
class Rollout:
    """R samples on the CPU: ``labels (R,)``, ``advantages (R,)``, ``latents (R, T + 1, C, h, w)`` from noise to clean,
    and ``log_probs (R, T)`` of the steps when they were taken."""

    labels: torch.Tensor
    advantages: torch.Tensor
    latents: torch.Tensor
    log_probs: torch.Tensor

    def transitions(self, pairs: torch.Tensor, device: torch.device) -> Transitions:
        """The steps ``pairs (B, 2)`` name by sample and position."""
        sample, index = pairs.unbind(1)
        return Transitions(
            index.to(device),
            self.latents[sample, index].to(device),
            self.latents[sample, index + 1].to(device),
        )

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors by name, for a checkpoint; ``Rollout(**state)`` reads it."""
        return {part.name: getattr(self, part.name) for part in fields(self)}


def shuffled_pairs(
    num_samples: int, num_steps: int, num_trained_steps: int, generator: torch.Generator
) -> torch.Tensor:
    """One pass's pairs ``(R x P, 2)`` of sample and step position, in random order.

    Each sample gives ``num_trained_steps`` different positions out of ``num_steps``, chosen for itself.
    """
    steps = torch.rand(num_samples, num_steps, generator=generator).argsort(dim=1)[:, :num_trained_steps]
    samples = torch.arange(num_samples)[:, None].expand_as(steps)
    pairs = torch.stack([samples.flatten(), steps.flatten()], dim=1)
    return pairs[torch.randperm(len(pairs), generator=generator)]


def ordered_labels(first: int, count: int, num_classes: int, seed: int) -> torch.Tensor:
    """Labels ``(count,)`` from position ``first`` of an endless sequence: one shuffled pass over all classes after
    another, the same for every process."""
    positions = torch.arange(first, first + count)
    passes, labels = positions // num_classes, torch.empty_like(positions)
    for number in passes.unique().tolist():
        order_seed = sample_seed(seed, "rollout order", number)
        order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(order_seed))
        labels[passes == number] = order[positions[passes == number] % num_classes]
    return labels

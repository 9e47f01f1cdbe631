"""Which classes a rollout shows, and in which order its (sample, step) pairs are trained on.

Shapes: R samples, P trained steps of each.
"""

import torch

from ubgen_pipeline.initial_latents import sample_seed


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


def ordered_partner_share(count: int, num_classes: int, seed: int) -> float:
    """Share of the labels of :func:`ordered_labels`, ``count`` at a time, that are not alone among theirs.

    Taken over one pass and what is needed to fill its last part.
    """
    num_parts = -(-num_classes // count)
    parts = ordered_labels(0, num_parts * count, num_classes, seed).view(num_parts, count)
    partners = sum(int((part.bincount()[part] > 1).sum()) for part in parts)
    return partners / (num_parts * count)

"""Samples at fixed seeds while training: the same noise before the first update and after every so many.

What is measured on them has no sampling noise, since only the weights differ; and they are what the grids show.
Shapes: S samples in all, of which each of R ranks draws s = ceil(S / R).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from ubgen_pipeline.files.whole_files import whole_file
from ubgen_pipeline.initial_latents import sample_seed

from ..checkpoints.library_internals import log_image
from ..sampler.sampler_model import SamplerModel


@dataclass(frozen=True)
class FixedBatch:
    """``images (B, 3, H, W)`` in [0, 1] drawn for ``labels (B,)`` from ``seeds``."""

    images: torch.Tensor
    labels: torch.Tensor
    seeds: list[int]


class FixedSamples:
    """The held-out samples: a few of some classes, spread evenly over the class list.

    Args:
        sampler: draws them, as it is at the time.
        class_names: all N, in label order.
        seed: of the run; a sample's seed depends on it, the class's name and the position within the class.
        num_classes: at most so many classes.
        num_per_class: samples of each.
        batch_size: samples drawn together.
        rank, num_ranks: every rank draws a share of equal length, because sharded weights are gathered by all
            ranks together; where the shares do not divide S, the first samples are drawn twice.
        gather: joins the ranks' tensors along the first axis, in rank order.
        device: where the images are put; by default they stay where they were drawn.
    """

    def __init__(
        self,
        sampler: SamplerModel,
        class_names: Sequence[str],
        *,
        seed: int,
        num_classes: int = 8,
        num_per_class: int = 4,
        batch_size: int = 4,
        rank: int = 0,
        num_ranks: int = 1,
        gather: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
        device: torch.device | None = None,
    ):
        self.sampler = sampler
        self.num_per_class = num_per_class
        self.batch_size = batch_size
        chosen = evenly_spread(len(class_names), num_classes)
        self.labels = torch.tensor(chosen).repeat_interleave(num_per_class)
        self.seeds = [sample_seed(seed, class_names[label], k) for label in chosen for k in range(num_per_class)]
        share = -(-len(self.seeds) // num_ranks)
        self.positions = [(rank + num_ranks * k) % len(self.seeds) for k in range(share)]
        self.num_ranks = num_ranks
        self._gather = gather
        self._device = device

    @torch.no_grad()
    def batches(self) -> Iterator[FixedBatch]:
        """Draw this rank's share, batch by batch; no random state changes."""
        for start in range(0, len(self.positions), self.batch_size):
            rows = self.positions[start : start + self.batch_size]
            labels, seeds = self.labels[rows], [self.seeds[row] for row in rows]
            images = self.sampler(labels=labels, seeds=seeds).clamp(0, 1).to(self._device)
            yield FixedBatch(images, labels, seeds)

    def collect(self, values: torch.Tensor) -> torch.Tensor:
        """What ``values (s, ...)`` of every rank's share are for all samples, ``(S, ...)`` in their own order."""
        gathered = self._gather(values).unflatten(0, (self.num_ranks, -1))
        return gathered.transpose(0, 1).flatten(0, 1)[: len(self.seeds)]


def evenly_spread(length: int, count: int) -> list[int]:
    """At most ``count`` positions of a list of ``length``, evenly spread over it: neighbours are often alike."""
    count = min(length, count)
    return [position * length // count for position in range(count)]


def save_grid(images: torch.Tensor, path: Path, num_per_row: int) -> torch.Tensor:
    """Save ``images (S, 3, H, W)`` uint8 as a PNG with ``num_per_row`` in a row; returns the grid ``(3, H', W')``."""
    grid = make_grid(images.cpu(), nrow=num_per_row)
    with whole_file(path) as temporary:
        to_pil_image(grid).save(temporary, format="PNG")
    return grid


def log_images(callbacks: Sequence[Any], name: str, image: torch.Tensor, step: int) -> None:
    """Hand ``image (3, H, W)`` uint8 to the trackers among a trainer's callbacks: TensorBoard, W&B, trackio.

    They are told by the attributes that transformers' callbacks keep their tracker under; others get nothing.
    """
    for callback in callbacks:
        if (writer := getattr(callback, "tb_writer", None)) is not None:
            writer.add_image(name, image, step)
        log_image(callback, name, to_pil_image(image), step)

"""Grids of samples at fixed seeds while training: one row per class, always the same noise."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.utils import save_image
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ubgen_pipeline.initial_latents import sample_seed

from .sampler_model import SamplerModel


@torch.no_grad()
def draw_sample_grid(
    sampler: SamplerModel, class_names: Sequence[str], path: Path, *, num_per_class: int, seed: int, batch_size: int
) -> None:
    """Save a PNG with a row of ``num_per_class`` samples for each class; it changes no random state."""
    seeds = [sample_seed(seed, name, index) for name in class_names for index in range(num_per_class)]
    labels = torch.arange(len(class_names)).repeat_interleave(num_per_class)
    images = [
        sampler(labels=labels[start : start + batch_size], seeds=seeds[start : start + batch_size])
        for start in range(0, len(seeds), batch_size)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(torch.cat(images).clamp(0, 1).cpu(), path, nrow=num_per_class)


class SampleGridCallback(TrainerCallback):
    """Draws ``samples/step_NNNNNN.png`` into the output directory at the start and every ``every_steps`` updates."""

    def __init__(
        self,
        sampler: SamplerModel,
        class_names: Sequence[str],
        *,
        every_steps: int,
        num_per_class: int = 4,
        max_classes: int = 16,
    ):
        self.sampler = sampler
        self.class_names = list(class_names)[:max_classes]
        self.every_steps = every_steps
        self.num_per_class = num_per_class

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step == 0:
            self._draw(args, state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step % self.every_steps == 0 or state.global_step == state.max_steps:
            self._draw(args, state)

    def _draw(self, args: TrainingArguments, state: TrainerState) -> None:
        if state.is_world_process_zero:
            draw_sample_grid(
                self.sampler,
                self.class_names,
                Path(str(args.output_dir)) / "samples" / f"step_{state.global_step:06d}.png",
                num_per_class=self.num_per_class,
                seed=args.seed,
                batch_size=args.per_device_train_batch_size,
            )

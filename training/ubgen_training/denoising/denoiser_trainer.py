"""Trains a denoiser, or a LoRA on it, on labelled images in latent space, with the loss that its model gives."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ubgen_pipeline.dataset.labelled_images import LabelledImages
from ubgen_pipeline.sample_seeds import sample_seed

from ..checkpoints.micro_steps import MicroSteps
from ..checkpoints.weight_average import WeightAverage
from ..images.image_trainer import ImageTrainer
from ..lora.trained_weights import load_trained_weights, save_plain_pipeline, save_trained_weights
from ..sampler.prompt_features import free_text_encoders
from .denoiser_config import LatentTrainingConfig
from .latent_model import LatentModel
from .pixel_rows import collate_pixels, pixel_rows


class DenoiserTrainer(ImageTrainer):
    """Trains on images and the prompts of their classes.

    Args:
        model: its prompts are those of the images' classes, in order.
        args: settings.
        images: to train on.
        kwargs: handed to ``transformers.Trainer``.

    Raises:
        ValueError: the dataset has fewer images than a batch.
    """

    settings_file = "denoiser_config.json"
    args: LatentTrainingConfig

    def __init__(self, model: LatentModel, args: LatentTrainingConfig, images: LabelledImages, **kwargs: Any):
        super().__init__(
            model,
            args,
            images,
            pixel_rows(images, args, *model.pipeline.image_size(args.height, args.width)),
            average=WeightAverage(model.denoiser_network, args.average_decay) if args.average_decay > 0 else None,
            export_average=args.export_average,
            data_collator=collate_pixels,
            **kwargs,
        )
        if args.prompt_features is not None and model.train_method == "lora":
            # a whole denoiser is saved with the rest of its pipeline
            free_text_encoders(model.pipeline)
        self._micro_steps = MicroSteps(first=1)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Mean loss of a batch; noise and timesteps hash (seed, rank, update, micro-batch)."""
        step = self.state.global_step
        micro_step = self._micro_steps.next(step)
        seed = sample_seed(self.args.seed, f"noise/{micro_step}/rank {self.args.process_index}", step)
        loss = model(inputs["pixels"], inputs["labels"], torch.Generator().manual_seed(seed)).mean()
        return (loss, {}) if return_outputs else loss

    def initial_modules(self) -> dict[str, nn.Module]:
        """All networks of the pipeline; see the base."""
        return self._latent_model.pipeline.networks

    def save_weights(self, folder: Path, *, write: bool = True) -> None:
        """Write the LoRA, or the whole denoiser."""
        model = self._latent_model
        save_trained_weights(model.pipeline, model.train_method, folder, write=write)

    def load_weights(self, folder: Path) -> None:
        """Read what :meth:`save_weights` wrote."""
        model = self._latent_model
        load_trained_weights(model.pipeline, model.train_method, folder)

    def save_beside_weights(self, folder: Path) -> None:
        """Write the whole pipeline around a denoiser that was trained as a whole."""
        if self._latent_model.train_method != "lora":
            save_plain_pipeline(self._latent_model.pipeline, folder)

    @property
    def _latent_model(self) -> LatentModel:
        return self.accelerator.unwrap_model(self.model)

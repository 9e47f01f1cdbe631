"""Trains a UNet, or a LoRA on it, on labelled images in latent space, with the loss that its model gives."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ubgen_pipeline.dataset.labelled_images import LabelledImages
from ubgen_pipeline.files.tensor_files import give_ordinary_permissions
from ubgen_pipeline.initial_latents import sample_seed

from ..checkpoints.micro_steps import MicroSteps
from ..checkpoints.trainer import CheckpointingTrainer
from ..checkpoints.weight_average import WeightAverage
from ..lora.trained_weights import load_trained_weights, save_trained_weights
from .denoiser_config import LatentTrainingConfig
from .latent_model import LatentModel
from .pixel_rows import PixelRows, StreamedPixelRows, collate_pixels


class DenoiserTrainer(CheckpointingTrainer):
    """Trains on images and the prompts of their classes.

    Args:
        model: its prompts are those of the images' classes, in order.
        args: settings.
        images: to train on.
        kwargs: handed to ``transformers.Trainer``.

    Raises:
        ValueError: the dataset has fewer images than a batch.
    """

    # the loss is a mean over the micro-batch, so accumulation still has to divide it
    loss_is_scaled_for_ga = False
    settings_file = "denoiser_config.json"
    args: LatentTrainingConfig

    def __init__(self, model: LatentModel, args: LatentTrainingConfig, images: LabelledImages, **kwargs: Any):
        self.class_names = list(images.class_names)
        factor = model.pipeline.vae_scale_factor
        height, width = (side * factor for side in model.pipeline.latent_shape(args.height, args.width)[-2:])
        if images.is_streamed:
            rows: Any = StreamedPixelRows(
                images,
                height,
                width,
                seed=args.seed,
                flip=args.horizontal_flip,
                buffer_size=args.shuffle_buffer,
            )
        else:
            rows = PixelRows(images, height, width, seed=args.seed, flip=args.horizontal_flip)
            if args.dataloader_drop_last and len(rows) < args.per_device_train_batch_size:
                raise ValueError(
                    f"per_device_train_batch_size is {args.per_device_train_batch_size}, but {images.source} has "
                    f"{len(rows)} rows; choose a smaller one."
                )
        super().__init__(model=model, args=args, train_dataset=rows, data_collator=collate_pixels, **kwargs)
        self.average = WeightAverage(model.unet, args.average_decay) if args.average_decay > 0 else None
        if self.average is not None:
            self.add_callback(self.average)
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
        pipeline = self._latent_model.pipeline
        return {"unet": pipeline.unet, "vae": pipeline.vae, "text_encoder": pipeline.text_encoder}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights; at the end averaged ones if ``export_average``, and a whole model unless it is a LoRA."""
        average, latent_model = self.average, self._latent_model
        # a checkpoint always holds the trained weights where a resumed run looks for them
        is_exported = average is not None and average.weights and self.args.export_average and not _internal_call
        with average.applied() if average is not None and is_exported else nullcontext():
            super().save_model(output_dir, _internal_call)
            if not _internal_call and latent_model.train_method != "lora" and self.args.should_save:
                folder = Path(output_dir or str(self.args.output_dir))
                latent_model.pipeline.save_pretrained(folder, safe_serialization=True)
                give_ordinary_permissions(*folder.glob("*/*.safetensors"))

    def save_weights(self, folder: Path, *, write: bool = True) -> None:
        model = self._latent_model
        save_trained_weights(model.unet, model.train_method, folder, write=write)

    def load_weights(self, folder: Path) -> None:
        model = self._latent_model
        load_trained_weights(model.unet, model.train_method, folder)

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), **({} if self.average is None else {"average": self.average.state_dict()})}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        super().load_extra_state(state)
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    @property
    def _latent_model(self) -> LatentModel:
        return self.accelerator.unwrap_model(self.model)

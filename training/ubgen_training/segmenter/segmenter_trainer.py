"""Trains a segmenter on images and masks, with exact checkpoints, and measures it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from ubgen_evaluation.mask_quality import MaskQuality, confusion_counts, quality_of_counts
from ubgen_pipeline.files.tensor_files import save_tensors
from ubgen_pipeline.initial_latents import sample_seed
from ubgen_pipeline.mask_settings import IGNORE_LABEL
from ubgen_pipeline.models.segmenter import Segmenter

from ..checkpoints.state import whole_state
from ..checkpoints.trainer import CheckpointingTrainer
from .segmenter_config import SegmenterConfig
from .segmenter_data import MaskedImages, RandomViews, as_arrays, collate
from .segmenter_loss import segmentation_loss

TRAINING_FILE = "training_weights.safetensors"


class SegmenterTrainer(CheckpointingTrainer):
    """Trains a segmenter on images with masks.

    Args:
        model: the segmenter with its loss.
        args: settings; see :class:`SegmenterConfig`.
        data: the training set; its mask values fit the segmenter's classes.
        kwargs: handed to ``transformers.Trainer`` (callbacks, optimizers …).
    """

    args: SegmenterConfig
    settings_file = "segmenter_config.json"

    def __init__(self, model: "SegmenterWithLoss", args: SegmenterConfig, data: MaskedImages, **kwargs: Any):
        self.class_names = model.class_names
        self._views = RandomViews(args.image_size, args.min_crop_scale, args.colour_change)
        self._num_batches = 0
        super().__init__(model=model, args=args, train_dataset=data.rows, data_collator=collate, **kwargs)
        # each micro-batch's loss is a mean of its own
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss of random views of the batch; they depend on seed, rank and batch number alone."""
        purpose = f"views/rank {self.args.process_index}"
        images, masks = self._views(
            inputs["images"], inputs["labels"], sample_seed(self.args.seed, purpose, self._num_batches)
        )
        self._num_batches += 1
        return model(images.to(self.args.device), masks.to(self.args.device))

    def initial_modules(self) -> dict[str, nn.Module]:
        """The network; see the base."""
        return {"network": self._segmenter.network}

    def save_weights(self, folder: Path, *, write: bool = True) -> None:
        """Write the segmenter for use, and its weights under the names of training for a resume."""
        weights = {name: whole_state(value) for name, value in self._segmenter.state_dict().items()}
        if write:
            self._segmenter.save(folder)
            if folder.name.startswith(".checkpoint-"):
                copies = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
                save_tensors(copies, folder / TRAINING_FILE)

    def load_weights(self, folder: Path) -> None:
        """Read the weights of a checkpoint."""
        self._segmenter.load_state_dict(load_file(folder / TRAINING_FILE))

    def rank_state(self) -> dict[str, Any]:
        """The base's, and the number of batches seen."""
        return {**super().rank_state(), "num_batches": self._num_batches}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`rank_state` gave."""
        super().load_rank_state(state)
        self._num_batches = state["num_batches"]

    @property
    def _segmenter(self) -> Segmenter:
        return self.accelerator.unwrap_model(self.model).segmenter


class SegmenterWithLoss(nn.Module):
    """What the trainer wraps: one forward from images and masks to the loss, so that DDP and FSDP see one call."""

    def __init__(self, segmenter: Segmenter):
        super().__init__()
        self.segmenter, self.config = segmenter, segmenter.config

    @property
    def class_names(self) -> list[str]:
        """Names of the classes without the background."""
        return self.segmenter.class_names

    def forward(self, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Scalar loss; see :func:`segmentation_loss`."""
        return segmentation_loss(self.segmenter, images, masks)


def predicted_masks(
    segmenter: Segmenter, data: MaskedImages, image_size: int, *, batch_size: int = 16, threshold: float = 0.0
) -> Iterator[np.ndarray]:
    """The segmenter's mask ``(H, W)`` uint8 of every image, at the image's own size.

    Args:
        segmenter: in eval mode.
        data: the images.
        image_size: side of the square that the segmenter sees, as in training.
        batch_size: images predicted together.
        threshold: pixels whose class has less probability get the ignore label.
    """
    device = segmenter.mean.device
    for start in range(0, len(data.rows), batch_size):
        images = [as_arrays(data.rows[i])[0] for i in range(start, min(start + batch_size, len(data.rows)))]
        pixels = [torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255 for image in images]
        views = torch.cat([_resized(image, (image_size, image_size), antialias=True) for image in pixels]).to(device)
        with torch.no_grad():
            output = segmenter(views)
            scores = segmenter.class_scores(output, (image_size, image_size))
        for image, score in zip(images, scores):
            probabilities = _resized(score[None], image.shape[:2]).softmax(dim=1)
            confidence, mask = probabilities[0].max(dim=0)
            mask = torch.where(confidence < threshold, IGNORE_LABEL, mask)
            yield mask.to("cpu", torch.uint8).numpy()


def measure(segmenter: Segmenter, data: MaskedImages, image_size: int, *, batch_size: int = 16) -> MaskQuality:
    """Quality of the segmenter's masks against the data's, whose classes are the segmenter's."""
    counts = np.zeros((segmenter.num_classes + 1,) * 2, np.int64)
    for row, mask in enumerate(predicted_masks(segmenter, data, image_size, batch_size=batch_size)):
        counts += confusion_counts(mask, as_arrays(data.rows[row])[1], segmenter.num_classes)
    return quality_of_counts(counts)


def _resized(images: torch.Tensor, size: tuple[int, int], antialias: bool = False) -> torch.Tensor:
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return nn.functional.interpolate(
        images, size=tuple(size), mode="bilinear", align_corners=False, antialias=antialias
    )

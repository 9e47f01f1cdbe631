"""Trains a timm classifier on labelled images; checkpoints as every trainer's here, weights in timm's own layout."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from datasets import Dataset
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn
from torch.nn.functional import cross_entropy

from ubgen_pipeline.dataset.labelled_images import LabelledImages
from ubgen_pipeline.files.tensor_files import give_ordinary_permissions
from ubgen_pipeline.files.whole_files import move_into_place

from ..checkpoints.weight_average import WeightAverage
from ..images.epoch_rows import EpochRows, EpochStream
from ..images.image_trainer import ImageTrainer
from .augmented_images import AugmentedImages, MixingCollator, StreamedImages
from .backbone_config import BackboneConfig

WEIGHTS_FILE = "model.safetensors"


class BackboneTrainer(ImageTrainer):
    """Trains with soft targets; evaluates accuracy with the averaged weights where there is an evaluation set.

    Args:
        model: a timm classifier with one output per class; see :func:`build_backbone`.
        args: settings.
        images: to train on.
        eval_images: to log the accuracy on, of the same classes in the same order.
        kwargs: handed to ``transformers.Trainer``.

    Raises:
        ValueError: the classes of both sets differ, a batch is larger than the dataset, or ``max_rows`` is.
    """

    settings_file = "backbone_config.json"
    args: BackboneConfig

    def __init__(
        self,
        model: nn.Module,
        args: BackboneConfig,
        images: LabelledImages,
        eval_images: LabelledImages | None = None,
        **kwargs: Any,
    ):
        class_names = list(images.class_names)
        if eval_images is not None and eval_images.class_names != images.class_names:
            raise ValueError(
                f"eval_dataset has the classes {list(eval_images.class_names)[:5]}…, the dataset "
                f"{class_names[:5]}…; give one with the same classes in the same order."
            )
        augmentation = args.augmentation
        transform = augmentation.training_transform()
        if images.is_streamed:
            rows: EpochRows | EpochStream = StreamedImages(images, transform, args.seed, args.shuffle_buffer)
        else:
            rows = AugmentedImages(_subset(images, args), transform, args.seed)
        eval_rows = None
        if eval_images is not None:
            eval_rows = AugmentedImages(eval_images, augmentation.evaluation_transform())
        average = None
        if args.average_decay > 0:
            # with the running statistics of normalisation layers
            average = WeightAverage(model, args.average_decay, with_buffers=True)
        self.mixing_collator = MixingCollator(len(class_names), augmentation)
        super().__init__(
            model,
            args,
            images,
            rows,
            average=average,
            export_average=args.export_average,
            eval_dataset=eval_rows,
            data_collator=self.mixing_collator,
            compute_metrics=_accuracy,
            **kwargs,
        )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Cross-entropy with the mixed, smoothed targets; in evaluation with the labels."""
        logits = model(inputs["pixel_values"])
        loss = cross_entropy(logits.float(), inputs["targets" if "targets" in inputs else "labels"])
        return (loss, {"logits": logits}) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Loss, logits and labels of an evaluation batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return loss, outputs["logits"], inputs["labels"]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The base's, with the averaged weights."""
        with self.averaged_weights():
            return super().evaluate(*args, **kwargs)

    def initial_modules(self) -> dict[str, nn.Module]:
        """The network; see the base."""
        return {"backbone": self.accelerator.unwrap_model(self.model)}

    def save_weights(self, folder: Path, *, write: bool = True) -> None:
        """Write the backbone; see :func:`save_backbone`."""
        if write:
            save_backbone(self.accelerator.unwrap_model(self.model), folder, self.class_names, self.args.image_size)

    def load_weights(self, folder: Path) -> None:
        """Read what :meth:`save_weights` wrote."""
        own, saved = self.accelerator.unwrap_model(self.model), load_file(folder / WEIGHTS_FILE)
        own.load_state_dict(saved)


def build_backbone(
    architecture: str, num_classes: int, image_size: int, model_args: dict[str, Any], seed: int
) -> nn.Module:
    """A timm classifier with random weights, which equal seeds make equal.

    Raises:
        ValueError: timm does not know the architecture, or not these arguments.
    """
    if not timm.is_model(architecture):
        near = ", ".join(timm.list_models(f"*{architecture[:6]}*")[:5]) or "resnet50, vit_small_patch16_224"
        raise ValueError(f"architecture is {architecture!r}, which timm does not know; choose one such as {near}.")
    arguments = {"num_classes": num_classes, **model_args}
    # transformers are built for one size
    if architecture.startswith(("vit_", "deit", "swin", "beit", "eva")):
        arguments = {"img_size": image_size, **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return timm.create_model(architecture, pretrained=False, **arguments)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise ValueError(f"architecture {architecture!r} with {arguments} cannot be built: {error}") from error


def save_backbone(model: nn.Module, folder: Path, class_names: list[str], image_size: int) -> None:
    """Write ``config.json`` and ``model.safetensors`` as ``timm.create_model("local-dir:FOLDER")`` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".weights"
    save_for_hf(
        model,
        str(partial),
        model_config={"label_names": class_names},
        data_config={"input_size": (3, image_size, image_size), "crop_pct": 1.0, "interpolation": "bicubic"},
        safe_serialization=True,
    )
    give_ordinary_permissions(*partial.glob("*.safetensors"))
    for file in partial.iterdir():
        move_into_place(file, folder / file.name)
    partial.rmdir()


def _subset(images: LabelledImages, args: BackboneConfig) -> LabelledImages:
    rows: Dataset = images.rows
    if args.max_rows is None:
        return images
    if args.max_rows > len(rows):
        raise ValueError(f"max_rows is {args.max_rows}, but {images.source} has {len(rows)} rows; choose fewer.")
    kept = np.random.default_rng(args.seed).permutation(len(rows))[: args.max_rows]
    return dataclasses.replace(images, rows=rows.select(sorted(kept.tolist())))


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}

"""Settings of the training of backbones; defaults are the paper's for ResNet50 (arXiv 2412.10831, Table 6)."""

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..images.config import FREE_ON_RESUME, ImageTrainingConfig
from .augmented_images import Augmentation


@dataclass
class BackboneConfig(ImageTrainingConfig):
    """Everything of :class:`ImageTrainingConfig`, the architecture and the augmentation.

    Raises:
        ValueError: a setting out of range, no dataset, or Hub push, which this trainer does not do.
    """

    free_on_resume: ClassVar[frozenset[str]] = FREE_ON_RESUME | {"eval_dataset", "eval_split"}

    output_dir: str | None = field(
        default="backbone", metadata={"help": "Where the backbone and its checkpoints are written, in timm's layout."}
    )
    max_rows: int | None = field(
        default=None, metadata={"help": "Train on a random subset of so many rows, which the seed chooses."}
    )
    eval_dataset: str | None = field(
        default=None, metadata={"help": "Dataset whose accuracy is logged, with the same classes."}
    )
    eval_split: str = field(default="validation", metadata={"help": "Split of eval_dataset."})
    architecture: str = field(default="resnet50", metadata={"help": "timm's name of the architecture."})
    model_args: dict | str | None = field(
        default=None, metadata={"help": "More arguments of timm's create_model, as JSON."}
    )

    image_size: int = field(default=224, metadata={"help": "Pixels of the images' sides."})
    rand_augment_magnitude: int = field(default=9, metadata={"help": "Of RandAugment; 0: none."})
    rand_augment_deviation: float = field(default=0.5, metadata={"help": "Of RandAugment's magnitude."})
    mixup: float = field(default=0.8, metadata={"help": "Alpha of mixup; 0: none."})
    cutmix: float = field(default=1.0, metadata={"help": "Alpha of cutmix; 0: none."})
    random_erasing: float = field(default=0.25, metadata={"help": "Probability of random erasing."})
    label_smoothing: float = field(default=0.1, metadata={"help": "Label smoothing."})
    least_crop: float = field(default=0.08, metadata={"help": "Least share of the image that a random crop keeps."})
    horizontal_flip: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip."})

    average_decay: float = field(
        default=0.9999, metadata={"help": "Decay of the moving average of weights and statistics; 0: none."}
    )
    export_average: bool = field(default=True, metadata={"help": "Save the average as the backbone at the end."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of AdamW."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay; not of biases and norms."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    num_train_epochs: float = field(default=120, metadata={"help": "Epochs."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up updates; below 1: share of all updates."})
    per_device_train_batch_size: int = field(default=256, metadata={"help": "Images per process and step; even."})
    bf16: bool | None = field(default=False, metadata={"help": "bfloat16 autocast."})
    gradient_checkpointing: bool | None = field(default=None, metadata={"help": "Not used."})
    save_strategy: str = field(default="epoch", metadata={"help": "When checkpoints are written."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many updates."})

    def __post_init__(self) -> None:
        self.model_args = _read_model_args(self.model_args)
        if self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}; choose 1 or more.")
        for name in ("random_erasing", "least_crop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose one in [0, 1].")
        for name in ("label_smoothing", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose one in [0, 1).")
        for name in ("mixup", "cutmix", "rand_augment_magnitude"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 0 or more.")
        if self.is_mixing and self.per_device_train_batch_size % 2:
            raise ValueError(
                f"per_device_train_batch_size is {self.per_device_train_batch_size}; mixup and cutmix need an even "
                "one, or set both to 0."
            )
        if self.is_mixing and not self.dataloader_drop_last:
            raise ValueError("dataloader_drop_last is off, but mixup and cutmix need whole batches; set both to 0.")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows is {self.max_rows}; choose 1 or more.")
        if self.streaming and self.max_rows is not None:
            raise ValueError("max_rows needs all rows at hand; leave it out, or streaming off.")
        super().__post_init__()

    @property
    def is_mixing(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    @property
    def augmentation(self) -> Augmentation:
        """The settings of the augmentation."""
        return Augmentation(
            self.image_size,
            self.rand_augment_magnitude,
            self.rand_augment_deviation,
            self.mixup,
            self.cutmix,
            self.random_erasing,
            self.label_smoothing,
            self.least_crop,
            self.horizontal_flip,
        )


def _read_model_args(given: dict | str | None) -> dict[str, Any]:
    try:
        read = json.loads(given) if isinstance(given, str) else given or {}
    except ValueError as error:
        raise ValueError(f"model_args is {given!r}, which is no JSON: {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f'model_args is {given!r}; give a JSON object, such as {{"drop_path_rate": 0.1}}.')
    return read

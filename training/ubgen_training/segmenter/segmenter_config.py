"""Settings of the segmenter's training; defaults are Dataset Diffusion's (AdamW, 20,000 steps for VOC)."""

from dataclasses import dataclass, field
from typing import ClassVar

from ..checkpoints.config import ResumableConfig

# what is compared by what it stands for, or does not touch what is computed
FREE_ON_RESUME = frozenset({"output_dir", "test_dataset", "test_split", "logging_steps", "report_to", "model"})


@dataclass
class SegmenterConfig(ResumableConfig):
    """Everything ``transformers.TrainingArguments`` has, and the data, the network and the self-training.

    Raises:
        ValueError: a setting out of range.
    """

    free_on_resume: ClassVar[frozenset[str]] = FREE_ON_RESUME

    output_dir: str | None = field(
        default="ubgen-segmenter", metadata={"help": "Where the segmenter, its figures and the checkpoints go."}
    )
    dataset: str | None = field(
        default=None,
        metadata={
            "help": "Training set with columns image, mask, label: a folder, a Hub id, or mini:NUMBER:SEED:BIAS for "
            "rendered scenes."
        },
    )
    split: str = field(default="train", metadata={"help": "Split of the training set."})
    test_dataset: str | None = field(default=None, metadata={"help": "Test set of the same form; none: no figures."})
    test_split: str = field(default="train", metadata={"help": "Split of the test set."})
    skip_damaged: bool = field(
        default=False, metadata={"help": "Leave rows with damaged images out, counted; else the first stops the run."}
    )
    model: str = field(
        default="deeplabv3_resnet50",
        metadata={
            "help": "mini, deeplabv3_resnet50, deeplabv3_resnet101, deeplabv3_mobilenet_v3_large, or a folder or Hub "
            "id of a transformers SegFormer or Mask2Former."
        },
    )
    image_size: int = field(default=512, metadata={"help": "Side of the square views that training sees, in pixels."})
    min_crop_scale: float = field(
        default=0.5, metadata={"help": "Smallest share of an image's area that a random crop takes; 1: no crops."}
    )
    colour_change: float = field(default=0.2, metadata={"help": "Strength of random colour changes, 0 to 1."})
    self_training_rounds: int = field(
        default=0,
        metadata={"help": "How often a new segmenter is trained on masks that the one before it predicted."},
    )
    self_training_threshold: float = field(
        default=0.7, metadata={"help": "Pixels predicted with less probability than this are ignored in such masks."}
    )

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning-rate schedule."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay."})
    max_steps: int = field(default=20_000, metadata={"help": "Updates of each round."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Images per process and step."})
    save_steps: float = field(default=2000, metadata={"help": "Write a checkpoint every so many updates."})
    bf16: bool | None = field(default=False, metadata={"help": "bfloat16 autocast."})
    gradient_checkpointing: bool | None = field(default=None, metadata={"help": "Not used."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many updates."})
    # the parser reads this union only in the base class's order
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="none", metadata={"help": "Trackers, such as tensorboard."}
    )
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Not used: the columns are fixed."})
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Leave out a last, smaller batch: batch normalisation cannot take one image."}
    )

    def __post_init__(self) -> None:
        for name in ("image_size", "per_device_train_batch_size", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 1 or more.")
        if self.self_training_rounds < 0:
            raise ValueError(f"self_training_rounds is {self.self_training_rounds}; choose 0 or more.")
        for name, low in (("min_crop_scale", 0.01), ("colour_change", 0.0), ("self_training_threshold", 0.0)):
            if not low <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose from {low} to 1.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; choose one in [0, 2**32), the range of numpy's.")
        if self.push_to_hub:
            raise ValueError("push_to_hub is not supported by this trainer; train, then upload output_dir.")
        super().__post_init__()

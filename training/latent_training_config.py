"""Settings of training a UNet in latent space on labelled images, whatever the loss."""

from dataclasses import dataclass, field
from typing import ClassVar

from .lora_average import check_average_decay
from .resumable_config import ResumableConfig

FREE_ON_RESUME = frozenset(
    {
        "output_dir",
        "model_name_or_path",
        "model_revision",
        "dataset",
        "revision",
        "export_average",
        "gradient_checkpointing",
        "activation_checkpointing",
        "logging_steps",
        "report_to",
        "remove_unused_columns",
    }
)


@dataclass
class LatentTrainingConfig(ResumableConfig):
    """Everything ``transformers.TrainingArguments`` has, the model, the dataset and the LoRA.

    Raises:
        ValueError: a setting out of range, no dataset, or Hub push, which these trainers do not do.
    """

    free_on_resume: ClassVar[frozenset[str]] = FREE_ON_RESUME

    output_dir: str | None = field(default="denoiser", metadata={"help": "Where weights and checkpoints are written."})
    model_name_or_path: str = field(
        default="mini", metadata={"help": "'mini', a folder or a Hub id of a Stable Diffusion 1.x or 2.x model."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Revision of the model on the Hub."})
    dataset: str | None = field(
        default=None,
        metadata={"help": "A folder that `ubgen generate` wrote, a folder of class folders, or a Hub id."},
    )
    split: str = field(default="train", metadata={"help": "Split of the dataset."})
    revision: str | None = field(default=None, metadata={"help": "Revision of the dataset on the Hub."})
    streaming: bool = field(default=False, metadata={"help": "Read the dataset row by row; needs max_steps."})
    shuffle_buffer: int = field(default=1000, metadata={"help": "Rows that a streamed dataset is shuffled within."})
    prompt_template: str = field(default="{name}", metadata={"help": "The prompt of a class; {name} is its name."})
    height: int | None = field(default=None, metadata={"help": "Image height in pixels; default: the model's."})
    width: int | None = field(default=None, metadata={"help": "Image width in pixels; default: the model's."})
    horizontal_flip: float = field(default=0.0, metadata={"help": "Probability of a horizontal flip."})

    lora_rank: int = field(default=128, metadata={"help": "Rank of the LoRA."})
    lora_alpha: float | None = field(default=None, metadata={"help": "Alpha of the LoRA; default: its rank."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"],
        metadata={"help": "Names of the UNet's layers that get a LoRA."},
    )
    average_decay: float = field(
        default=0.999, metadata={"help": "Decay of the moving average of the trained weights; 0: none."}
    )
    export_average: bool = field(default=True, metadata={"help": "Save the average as the weights at the end."})

    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of AdamW."})
    lr_scheduler_type: str = field(default="constant_with_warmup", metadata={"help": "Learning-rate schedule."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Images per process and step."})
    bf16: bool | None = field(default=False, metadata={"help": "bfloat16 frozen weights and autocast."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Leave out an incomplete last batch."})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Older name of activation_checkpointing."}
    )
    activation_checkpointing: bool | None = field(
        default=None, metadata={"help": "Recompute the UNet's activations: less memory, slower. Default: off."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Log every so many updates."})
    # the parser reads this union only in the base class's order
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="none", metadata={"help": "Trackers, such as tensorboard."}
    )
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Not used: the columns are fixed."})

    def __post_init__(self) -> None:
        if not self.dataset:
            raise ValueError("dataset is not given; name a folder that `ubgen generate` wrote, or a Hub id.")
        for name in ("lora_rank", "per_device_train_batch_size", "shuffle_buffer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 1 or more.")
        if not 0 <= self.horizontal_flip <= 1:
            raise ValueError(f"horizontal_flip is {self.horizontal_flip}; choose one in [0, 1].")
        check_average_decay(self.average_decay)
        if self.streaming and self.max_steps < 1:
            raise ValueError("streaming is on, where the number of rows is not known; give max_steps.")
        if self.push_to_hub:
            raise ValueError("push_to_hub is not supported by this trainer; train, then upload output_dir.")
        super().__post_init__()

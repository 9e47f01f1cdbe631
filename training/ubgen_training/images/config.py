"""Settings of every training on labelled images: the dataset and how it is read."""

from dataclasses import dataclass, field
from typing import ClassVar

from ..checkpoints.config import ResumableConfig

FREE_ON_RESUME = frozenset(
    {
        "output_dir",
        "dataset",
        "revision",
        "export_average",
        "gradient_checkpointing",
        "logging_steps",
        "report_to",
        "remove_unused_columns",
    }
)


@dataclass
class ImageTrainingConfig(ResumableConfig):
    """Everything ``transformers.TrainingArguments`` has, and the dataset.

    Raises:
        ValueError: a setting out of range, no dataset, or Hub push, which these trainers do not do.
    """

    free_on_resume: ClassVar[frozenset[str]] = FREE_ON_RESUME

    dataset: str | None = field(
        default=None,
        metadata={"help": "A folder that `ubgen generate` wrote, a folder of class folders, or a Hub id."},
    )
    split: str = field(default="train", metadata={"help": "Split of the dataset."})
    revision: str | None = field(default=None, metadata={"help": "Revision of the dataset on the Hub."})
    streaming: bool = field(default=False, metadata={"help": "Read the dataset row by row; needs max_steps."})
    shuffle_buffer: int = field(default=1000, metadata={"help": "Rows that a streamed dataset is shuffled within."})
    skip_damaged: bool = field(
        default=False, metadata={"help": "Leave rows with damaged images out, counted; else the first stops the run."}
    )
    horizontal_flip: float = field(default=0.0, metadata={"help": "Probability of a horizontal flip."})

    dataloader_drop_last: bool = field(default=True, metadata={"help": "Leave out an incomplete last batch."})
    # the parser reads this union only in the base class's order
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="none", metadata={"help": "Trackers, such as tensorboard."}
    )
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Not used: the columns are fixed."})

    def __post_init__(self) -> None:
        if not self.dataset:
            raise ValueError("dataset is not given; name a folder that `ubgen generate` wrote, or a Hub id.")
        for name in ("per_device_train_batch_size", "shuffle_buffer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 1 or more.")
        if not 0 <= self.horizontal_flip <= 1:
            raise ValueError(f"horizontal_flip is {self.horizontal_flip}; choose one in [0, 1].")
        if self.streaming and self.max_steps < 1:
            raise ValueError("streaming is on, where the number of rows is not known; give max_steps.")
        if self.push_to_hub:
            raise ValueError("push_to_hub is not supported by this trainer; train, then upload output_dir.")
        super().__post_init__()

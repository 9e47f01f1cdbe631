"""Settings of textual inversion."""

import re
from dataclasses import dataclass, field
from typing import ClassVar

from ..checkpoints.config import ResumableConfig

# what does not touch the vectors; the model is compared by its weights
FREE_ON_RESUME = frozenset(
    {
        "output_dir",
        "model_name_or_path",
        "model_revision",
        "variant",
        "num_samples",
        "num_inference_steps",
        "guidance_scale",
        "logging_steps",
        "report_to",
    }
)
TEMPLATES = ["{token}", "photo of {token}", "a {token}", "a photo of a {token}"]


@dataclass
class TextualInversionConfig(ResumableConfig):
    """Everything ``transformers.TrainingArguments`` has, and the model, the token and its images.

    Raises:
        ValueError: a setting out of range.
    """

    free_on_resume: ClassVar[frozenset[str]] = FREE_ON_RESUME

    output_dir: str | None = field(
        default="ubgen-token", metadata={"help": "Where the embedding, the checkpoints and the samples are written."}
    )
    model_name_or_path: str = field(
        default="mini", metadata={"help": "'mini', a folder or a Hub id of a Stable Diffusion 1.x or 2.x model."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Revision of the model on the Hub."})
    variant: str | None = field(
        default=None,
        metadata={"help": "Of the model's weights, such as fp16; the plain ones, or the variant that is there alone."},
    )
    images: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the images to learn from, or novel:NAME:NUMBER:SEED for rendered scenes of a "
            "silhouette that the mini model never saw."
        },
    )
    skip_damaged: bool = field(
        default=False, metadata={"help": "Leave damaged images out, named; else the first stops the run."}
    )
    token: str = field(default="<new>", metadata={"help": "The word to be learned; not one the model knows."})
    initial_word: str = field(default="object", metadata={"help": "The word whose vector training starts from."})
    num_vectors: int = field(default=1, metadata={"help": "Vectors of the token; each takes a place of the prompt."})
    templates: list[str] = field(
        default_factory=lambda: list(TEMPLATES), metadata={"help": "Prompts of training, with {token}."}
    )
    mirror_images: bool = field(default=True, metadata={"help": "Also learn from each image's mirror image."})
    num_samples: int = field(default=8, metadata={"help": "Samples drawn at the end; 0: none."})
    num_inference_steps: int = field(default=50, metadata={"help": "Sampling steps of the samples."})
    guidance_scale: float = field(default=2.0, metadata={"help": "Classifier-free guidance of the samples."})

    learning_rate: float = field(default=5e-3, metadata={"help": "Learning rate of the vectors."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning-rate schedule."})
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay of the vectors."})
    max_steps: int = field(default=3000, metadata={"help": "Updates."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Images per process and step."})
    save_steps: float = field(default=500, metadata={"help": "Write a checkpoint every so many updates."})
    bf16: bool | None = field(default=False, metadata={"help": "bfloat16 frozen weights and autocast."})
    gradient_checkpointing: bool | None = field(default=None, metadata={"help": "Not used."})
    logging_steps: float = field(default=50, metadata={"help": "Log every so many updates."})
    # the parser reads this union only in the base class's order
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="none", metadata={"help": "Trackers, such as tensorboard."}
    )
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Not used: the columns are fixed."})

    def __post_init__(self) -> None:
        for name in ("num_vectors", "per_device_train_batch_size", "max_steps", "num_inference_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 1 or more.")
        if self.num_samples < 0:
            raise ValueError(f"num_samples is {self.num_samples}; choose 0 or more.")
        for template in self.templates or [""]:
            if "{token}" not in template:
                raise ValueError(f"templates holds {template!r}; each must hold {{token}}.")
            if re.search(r"[{}]", template.replace("{token}", "")):
                raise ValueError(f"templates holds {template!r}; {{token}} is the only placeholder, without a format.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; choose one in [0, 2**32), the range of numpy's.")
        if self.push_to_hub:
            raise ValueError("push_to_hub is not supported by this trainer; train, then upload output_dir.")
        super().__post_init__()

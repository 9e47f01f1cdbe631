"""Settings that any trainer with exact checkpoints has, and which of them a resumed run must share."""

import json
from dataclasses import fields
from typing import Any, ClassVar

from transformers import TrainingArguments

# of the settings of transformers.TrainingArguments, those that a resumed run must share
FIXED_ON_RESUME = frozenset(
    {
        "seed",
        "data_seed",
        "optim",
        "optim_args",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "gradient_accumulation_steps",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "fp16",
        "dataloader_drop_last",
        "train_sampling_strategy",
    }
)


class ResumableConfig(TrainingArguments):
    """``transformers.TrainingArguments`` of a trainer that resumes exactly.

    ``free_on_resume`` names the settings of a subclass's own that a resumed run may change: those that do not touch
    what is computed, or are compared by what they stand for.
    """

    free_on_resume: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device.type == "cpu":
            # pinned memory speeds up copies to an accelerator; without one, torch warns in every epoch
            self.dataloader_pin_memory = False

    def settings_to_resume_with(self) -> dict[str, Any]:
        """The settings that a resumed run must share, as they read from JSON."""
        kinds = [kind for kind in type(self).__mro__ if issubclass(kind, ResumableConfig)]
        own = {name for kind in kinds for name in kind.__annotations__}
        fixed = (own - self.free_on_resume) | FIXED_ON_RESUME
        values = json.loads(self.to_json_string())
        return {entry.name: values[entry.name] for entry in fields(self) if entry.name in fixed}

"""Settings that any trainer with exact checkpoints has, and which of them a resumed run must share."""

import json
import math
import warnings
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
# where infinity has a meaning: no clipping
_MAY_BE_INFINITE = frozenset({"max_grad_norm"})


class ResumableConfig(TrainingArguments):
    """``transformers.TrainingArguments`` of a trainer that resumes exactly.

    ``free_on_resume`` names the settings of a subclass's own that a resumed run may change: those that do not touch
    what is computed, or are compared by what they stand for.

    Raises:
        ValueError: a number that is not finite or out of range.
    """

    free_on_resume: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        self._check_numbers()
        super().__post_init__()
        if self.device.type == "cpu":
            # pinned memory speeds up copies to an accelerator; without one, torch warns in every epoch
            self.dataloader_pin_memory = False
        if super().n_gpu > 1:
            warnings.warn(
                f"one process trains on one GPU, and this machine shows {super().n_gpu}: the first is used. Launch "
                "with `accelerate launch` to use all of them.",
                stacklevel=2,
            )

    @property
    def n_gpu(self) -> int:
        """At most 1: with more, transformers cuts batches for torch's DataParallel, which cannot cut seeds along."""
        return min(super().n_gpu, 1)

    def _check_numbers(self) -> None:
        # comparisons let a nan pass, and one in the loss is only found once images were drawn
        for name in (entry.name for entry in fields(self)):
            value = getattr(self, name)
            for number in value if isinstance(value, (list, tuple)) else (value,):
                if not isinstance(number, float) or math.isfinite(number):
                    continue
                if math.isnan(number) or name not in _MAY_BE_INFINITE:
                    raise ValueError(f"{name} is {value}; choose finite numbers.")
        for name in ("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 0 or more.")
        # None where it follows from other settings
        if self.gradient_accumulation_steps is not None and self.gradient_accumulation_steps < 1:
            raise ValueError(f"gradient_accumulation_steps is {self.gradient_accumulation_steps}; choose 1 or more.")

    def settings_to_resume_with(self) -> dict[str, Any]:
        """The settings that a resumed run must share, as they read from JSON."""
        kinds = [kind for kind in type(self).__mro__ if issubclass(kind, ResumableConfig)]
        own = {name for kind in kinds for name in kind.__annotations__}
        fixed = (own - self.free_on_resume) | FIXED_ON_RESUME
        values = json.loads(self.to_json_string())
        return {entry.name: values[entry.name] for entry in fields(self) if entry.name in fixed}

"""Settings of trainings that draw samples and train on their (sample, step) pairs until the next are drawn."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ..reward_training.config import FREE_ON_RESUME, SamplerConfig
from ..rewards.reward_functions import check_something_is_trained
from .advantages import check_statistics

ADVANTAGES = ("class_statistics", "group")
NORMALISATIONS = ("sum", "each")


@dataclass
class RolloutConfig(SamplerConfig):
    """:class:`SamplerConfig`, the rollouts and the advantages.

    ``max_steps`` counts optimizer updates. Each process draws ``rollout_size`` samples, takes ``num_inner_epochs``
    passes over their (sample, step) pairs, ``per_device_train_batch_size`` pairs at a time, and draws anew.

    Raises:
        ValueError: a setting out of range; counts that do not divide.
    """

    # scores and their order are the same with any
    free_on_resume: ClassVar[frozenset[str]] = FREE_ON_RESUME | {"reward_workers", "reward_device"}

    num_trained_steps: int | None = field(
        default=None,
        metadata={"help": "Steps of each sample to train on, chosen at random; default: all that can be."},
    )
    rollout_size: int = field(default=16, metadata={"help": "Samples that each process draws at a time."})
    num_inner_epochs: int = field(default=1, metadata={"help": "Passes over a rollout before the next is drawn."})
    gradient_accumulation_steps: int | None = field(
        default=None,
        metadata={"help": "Batches of pairs in an update. Default: num_trained_steps, whole trajectories' worth."},
    )
    advantages: str = field(
        default="class_statistics",
        metadata={"help": "class_statistics: against the class's recent rewards (DDPO); group: its group's (GRPO)."},
    )
    group_size: int = field(default=4, metadata={"help": "Samples of one class in a group, for advantages: group."})
    reward_normalisation: str = field(
        default="sum",
        metadata={
            "help": "sum: advantages of the weighted sum of the rewards; each: the weighted sum of each reward's own,"
            " so that a weight does not depend on how much a reward varies."
        },
    )
    statistics_window: int = field(default=32, metadata={"help": "Recent rewards kept of each class."})
    statistics_min_count: int = field(
        default=16, metadata={"help": "With fewer, a class is normalised by the rollout's mean and deviation."}
    )
    advantage_clip: float = field(default=5.0, metadata={"help": "Advantages are clipped to +/- this."})
    reward_workers: int = field(
        default=0,
        metadata={
            "help": "Threads that score a rollout's images while the next ones are drawn; several call rewards at the"
            " same time. 0: images are scored before the next are drawn."
        },
    )
    reward_device: str | None = field(
        default=None,
        metadata={"help": "Device of the rewards and their CLIP, such as cuda:1 or cpu. Default: where it trains."},
    )
    per_device_train_batch_size: int = field(
        default=4, metadata={"help": "(Sample, step) pairs per process and batch, and samples drawn at a time."}
    )

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_divisions()
        if self.num_inference_steps is not None:
            self.check_steps(self.num_inference_steps)
        super().__post_init__()
        check_something_is_trained(self.reward_weights)

    def num_trainable_steps(self, num_inference_steps: int) -> int:
        """Steps of so many that can be trained on.

        Raises:
            ValueError: none can.
        """
        raise NotImplementedError

    def check_steps(self, num_inference_steps: int) -> None:
        """The base's: steps to train on are among them, and the batches of a rollout divide into updates."""
        trainable = self.num_trainable_steps(num_inference_steps)
        if self.num_trained_steps is None:
            self.num_trained_steps = trainable
        if not 1 <= self.num_trained_steps <= trainable:
            left_out = "leaves out the last" if trainable < num_inference_steps else "are all"
            raise ValueError(
                f"num_trained_steps is {self.num_trained_steps}; choose 1 to {trainable}, which"
                f" {left_out} of num_inference_steps = {num_inference_steps}."
            )
        if self.gradient_accumulation_steps is None:
            self.gradient_accumulation_steps = self.num_trained_steps
        if self.batches_per_pass % self.batches_per_update:
            size, batch = self.rollout_size, self.per_device_train_batch_size
            raise ValueError(
                f"gradient_accumulation_steps is {self.gradient_accumulation_steps}, which does not divide the"
                f" {self.batches_per_pass} batches of a rollout (rollout_size x num_trained_steps /"
                f" per_device_train_batch_size = {size} x {self.num_trained_steps} / {batch}); choose a divisor."
            )

    @property
    def scoring_device(self) -> torch.device:
        """``reward_device``, or where it trains."""
        return self.device if self.reward_device is None else torch.device(self.reward_device)

    @property
    def trained_steps(self) -> int:
        """``num_trained_steps``, which is no longer None."""
        assert self.num_trained_steps is not None
        return self.num_trained_steps

    @property
    def batches_per_update(self) -> int:
        """``gradient_accumulation_steps``, which is no longer None."""
        assert self.gradient_accumulation_steps is not None
        return self.gradient_accumulation_steps

    @property
    def batches_per_pass(self) -> int:
        """Batches of pairs in one pass over a rollout."""
        return self.rollout_size * self.trained_steps // self.per_device_train_batch_size

    @property
    def updates_per_rollout(self) -> int:
        """Optimizer updates between two rollouts."""
        return self.num_inner_epochs * self.batches_per_pass // self.batches_per_update

    @property
    def group_copies(self) -> int:
        """Samples of a class that come together."""
        return self.group_size if self.advantages == "group" else 1

    @property
    def images_per_update(self) -> float:
        """Images that all processes together draw for an update, on average."""
        return self.rollout_size * self.world_size / self.updates_per_rollout

    def _check_ranges(self) -> None:
        counts = ("rollout_size", "num_inner_epochs", "per_device_train_batch_size", "gradient_accumulation_steps")
        for name in counts:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 1 or more.")
        self.check_positive("advantage_clip")
        for name, choices in (("advantages", ADVANTAGES), ("reward_normalisation", NORMALISATIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose {' or '.join(choices)}.")
        check_statistics(self.statistics_window, self.statistics_min_count, "statistics_")
        if self.reward_workers < 0:
            raise ValueError(f"reward_workers is {self.reward_workers}; choose 0 or more.")
        self._check_reward_device()

    def _check_reward_device(self) -> None:
        if self.reward_device is None:
            return
        try:
            torch.empty(0, device=self.reward_device)
        # a library built without the device asserts
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"reward_device is {self.reward_device!r}, which cannot be used here ({reason}); choose one of this "
                "machine's, such as cuda:1, or cpu."
            ) from error

    def check_positive(self, *names: str) -> None:
        """Raise ``ValueError`` for a setting of these names that is no number above 0."""
        for name in names:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; choose a number above 0.")

    def check_kl_weight(self, kl_weight: float) -> None:
        """Raise ``ValueError`` for a weight of the distance to the untrained model that cannot be."""
        if not 0 <= kl_weight < math.inf:
            raise ValueError(f"kl_weight is {kl_weight}; choose 0 or more.")
        if kl_weight > 0 and self.train_method != "lora":
            raise ValueError(
                f"kl_weight is {kl_weight}, but train_method is {self.train_method!r}, which leaves no untrained "
                "model to compare with; choose lora, or set kl_weight to 0."
            )

    def _check_divisions(self) -> None:
        size, batch = self.rollout_size, self.per_device_train_batch_size
        if size % batch:
            raise ValueError(
                f"rollout_size is {size}, no multiple of per_device_train_batch_size = {batch}, in which it is drawn;"
                " change one of them."
            )
        if self.advantages == "group":
            if self.group_size < 2:
                raise ValueError(
                    f"group_size is {self.group_size}; a group's rewards are compared with each other: choose 2 or"
                    " more."
                )
            if size % self.group_size:
                raise ValueError(
                    f"rollout_size is {size}, no multiple of group_size = {self.group_size}; change one of them."
                )

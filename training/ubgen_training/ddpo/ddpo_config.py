"""Settings of ``train_ddpo.py`` and :class:`DDPOTrainer`: policy gradient through the steps of a rollout.

Clip range and advantage clip are those of DDPO's released configuration (arXiv 2305.13301); a rollout is sized for one
device.
"""

import math
from dataclasses import dataclass, field

from ..reward_training.config import SamplerConfig
from .objective import check_statistics
from .step_log_probability import REDUCTIONS

# how a step draws, and its noise share where none is given
NOISE_DYNAMICS = ("ddpm", "ddim")
ETAS = {"ddpm": 1.0, "ddim": 1.0, "flow_sde": 0.7, "dance_sde": 0.3, "cps": 0.7}
ADVANTAGES = ("class_statistics", "group")


@dataclass
class DDPOConfig(SamplerConfig):
    """:class:`SamplerConfig`, the rollouts, the clipped objective and the advantages.

    ``max_steps`` counts optimizer updates. Each process draws ``rollout_size`` samples, takes ``num_inner_epochs``
    passes over their (sample, step) pairs, ``per_device_train_batch_size`` pairs at a time, and draws anew.

    Raises:
        ValueError: a setting out of range; a scheduler without log-probabilities; counts that do not divide.
    """

    output_dir: str | None = field(
        default="ddpo-lora", metadata={"help": "Where the LoRA, the checkpoints and the sample grids are written."}
    )
    dynamics: str | None = field(
        default=None,
        metadata={
            "help": "How a step draws: ddpm or ddim; for models of flow matching flow_sde (Flow-GRPO), dance_sde"
            " (DanceGRPO) or cps. Default: ddpm, or flow_sde."
        },
    )
    scheduler: str | None = field(
        default=None, metadata={"help": "ddpm or ddim: older name of dynamics, for models that predict noise."}
    )
    eta: float | None = field(
        default=None,
        metadata={
            "help": "Noise share of a step: in (0, 1] for ddim (default 1) and cps (0.7), above 0 for flow_sde (0.7)"
            " and dance_sde (0.3); ddpm ignores it."
        },
    )
    num_trained_steps: int | None = field(
        default=None,
        metadata={"help": "Steps of each sample to train on, chosen at random; default: all but the last."},
    )
    rollout_size: int = field(default=16, metadata={"help": "Samples that each process draws at a time."})
    num_inner_epochs: int = field(default=1, metadata={"help": "Passes over a rollout before the next is drawn."})
    gradient_accumulation_steps: int | None = field(
        default=None,
        metadata={"help": "Batches of pairs in an update. Default: num_trained_steps, whole trajectories' worth."},
    )
    clip_range: float = field(
        default=1e-4, metadata={"help": "The ratio counts within 1 +/- this; see log_probability."}
    )
    log_probability: str = field(
        default="mean",
        metadata={
            "help": "mean over a latent's elements (DDPO's code), or sum, the density's own: clip at about 0.2."
        },
    )
    kl_weight: float = field(
        default=0.0, metadata={"help": "Weight of the KL to the model without its LoRA; 0 leaves it out."}
    )

    advantages: str = field(
        default="class_statistics",
        metadata={"help": "class_statistics: against the class's recent rewards (DDPO); group: its group's (GRPO)."},
    )
    group_size: int = field(default=4, metadata={"help": "Samples of one class in a group, for advantages: group."})
    statistics_window: int = field(default=32, metadata={"help": "Recent rewards kept of each class."})
    statistics_min_count: int = field(
        default=16, metadata={"help": "With fewer, a class is normalised by the rollout's mean and deviation."}
    )
    advantage_clip: float = field(default=5.0, metadata={"help": "Advantages are clipped to +/- this."})
    per_device_train_batch_size: int = field(
        default=4, metadata={"help": "(Sample, step) pairs per process and batch, and samples drawn at a time."}
    )

    def __post_init__(self) -> None:
        if self.scheduler not in (None, *NOISE_DYNAMICS):
            raise ValueError(
                f"scheduler is {self.scheduler!r}, whose steps have no log-probability; leave it out, and choose"
                f" dynamics of {', '.join(ETAS)}."
            )
        if self.dynamics not in (None, *ETAS):
            raise ValueError(f"dynamics is {self.dynamics!r}; choose one of {', '.join(ETAS)}.")
        if None not in (self.dynamics, self.scheduler) and self.dynamics != self.scheduler:
            raise ValueError(
                f"dynamics is {self.dynamics!r} and scheduler {self.scheduler!r}, which is its older name; leave"
                " scheduler out."
            )
        if (chosen := self.dynamics or self.scheduler) is not None:
            self.take_dynamics(chosen)
        self._check_ranges()
        self._check_divisions()
        if self.num_inference_steps is not None:
            self.check_steps(self.num_inference_steps)
        super().__post_init__()

    def take_dynamics(self, dynamics: str) -> None:
        """Fill in how a step draws, and its noise share, where they were left out.

        Raises:
            ValueError: a noise share that gives no density.
        """
        self.dynamics = self.dynamics or dynamics
        if self.dynamics in NOISE_DYNAMICS:
            # a checkpoint's settings name it, as they did before there were others
            self.scheduler = self.dynamics
        self.eta = ETAS[self.dynamics] if self.eta is None else self.eta
        largest = math.inf if self.dynamics in ("flow_sde", "dance_sde") else 1
        if not 0 < self.eta <= largest or self.eta == math.inf:
            choice = "in (0, 1]" if largest == 1 else "above 0"
            raise ValueError(
                f"eta is {self.eta}; a step without noise has no log-probability: for {self.dynamics} choose it"
                f" {choice}."
            )

    @property
    def step_noise(self) -> float:
        """``eta``, which is no longer None."""
        assert self.eta is not None
        return self.eta

    def check_steps(self, num_inference_steps: int) -> None:
        """The base's: steps to train on are among them, and the batches of a rollout divide into updates."""
        if num_inference_steps < 2:
            raise ValueError(
                f"num_inference_steps is {num_inference_steps}; choose 2 or more: the last adds no noise."
            )
        if self.num_trained_steps is None:
            self.num_trained_steps = num_inference_steps - 1
        if not 1 <= self.num_trained_steps < num_inference_steps:
            raise ValueError(
                f"num_trained_steps is {self.num_trained_steps}; choose 1 to {num_inference_steps - 1}, which"
                f" leaves out the last of num_inference_steps = {num_inference_steps}."
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
    def images_per_update(self) -> float:
        """Images that all processes together draw for an update, on average."""
        return self.rollout_size * self.world_size / self.updates_per_rollout

    def _check_ranges(self) -> None:
        counts = ("rollout_size", "num_inner_epochs", "per_device_train_batch_size", "gradient_accumulation_steps")
        for name in counts:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 1 or more.")
        for name in ("clip_range", "advantage_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; choose a number above 0.")
        if not 0 <= self.kl_weight < math.inf:
            raise ValueError(f"kl_weight is {self.kl_weight}; choose 0 or more.")
        if self.kl_weight > 0 and self.train_method != "lora":
            raise ValueError(
                f"kl_weight is {self.kl_weight}, but train_method is {self.train_method!r}, which leaves no untrained "
                "model to compare with; choose lora, or set kl_weight to 0."
            )
        if self.log_probability not in REDUCTIONS:
            raise ValueError(f"log_probability is {self.log_probability!r}; choose {' or '.join(REDUCTIONS)}.")
        if self.advantages not in ADVANTAGES:
            raise ValueError(f"advantages is {self.advantages!r}; choose {' or '.join(ADVANTAGES)}.")
        check_statistics(self.statistics_window, self.statistics_min_count, "statistics_")

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

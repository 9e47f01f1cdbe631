"""Settings of ``train_ddpo.py`` and :class:`DDPOTrainer`: policy gradient through the steps of a rollout.

Clip range and advantage clip are those of DDPO's released configuration (arXiv 2305.13301); a rollout is sized for one
device.
"""

import math
from dataclasses import dataclass, field

from ..rollouts.config import RolloutConfig
from .step_log_probability import REDUCTIONS

# how a step draws, and its noise share where none is given
NOISE_DYNAMICS = ("ddpm", "ddim")
ETAS = {"ddpm": 1.0, "ddim": 1.0, "flow_sde": 0.7, "dance_sde": 0.3, "cps": 0.7}


@dataclass
class DDPOConfig(RolloutConfig):
    """:class:`.RolloutConfig`, how steps draw, and the clipped objective.

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
    window_size: int | None = field(
        default=None,
        metadata={
            "help": "For models of flow matching: only so many steps in a row draw and are trained on, the others are"
            " Euler's (MixGRPO). Default: all but the last."
        },
    )
    window_interval: int = field(
        default=25, metadata={"help": "Rollouts after which the window moves on by one step, from the noisiest on."}
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
    ratio_normalisation: bool = field(
        default=False,
        metadata={
            "help": "For models of flow matching: ratios of all steps have the same mean and spread, so that clipping"
            " means the same at each, and steps count alike (GRPO-Guard); keeps the steps' means, too."
        },
    )
    kl_weight: float = field(
        default=0.0, metadata={"help": "Weight of the KL to the model without its LoRA; 0 leaves it out."}
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
        self.check_positive("clip_range")
        if self.window_interval < 1:
            raise ValueError(f"window_interval is {self.window_interval}; choose 1 or more.")
        self.check_kl_weight(self.kl_weight)
        if self.log_probability not in REDUCTIONS:
            raise ValueError(f"log_probability is {self.log_probability!r}; choose {' or '.join(REDUCTIONS)}.")
        super().__post_init__()

    def take_dynamics(self, dynamics: str) -> None:
        """Fill in how a step draws, and its noise share, where they were left out.

        Raises:
            ValueError: a noise share that gives no density.
        """
        self.dynamics = self.dynamics or dynamics
        if self.dynamics in NOISE_DYNAMICS and self.window_size is not None:
            raise ValueError(
                f"window_size is {self.window_size}, but dynamics is {self.dynamics!r}, all of whose steps draw; leave"
                " it out."
            )
        if self.dynamics in NOISE_DYNAMICS and self.ratio_normalisation:
            raise ValueError(
                f"ratio_normalisation is on, but dynamics is {self.dynamics!r}; it is for models of flow matching:"
                " leave it out."
            )
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

    @property
    def uses_reference(self) -> bool:
        """The base's, and the distance to it."""
        return super().uses_reference or self.kl_weight > 0

    def num_trainable_steps(self, num_inference_steps: int) -> int:
        """All but the last, which adds no noise, or next to none; with a window those of it."""
        if num_inference_steps < 2:
            raise ValueError(
                f"num_inference_steps is {num_inference_steps}; choose 2 or more: the last adds no noise."
            )
        most = num_inference_steps - 1
        if self.window_size is not None and not 1 <= self.window_size <= most:
            raise ValueError(
                f"window_size is {self.window_size}; choose 1 to {most}, which leaves out the last of"
                f" num_inference_steps = {num_inference_steps}."
            )
        return self.window_size or most

    def window(self, rollout: int) -> range:
        """Positions of the steps that draw in a rollout: from the first step on, and back to it after the last."""
        assert self.num_inference_steps is not None
        most = self.num_inference_steps - 1
        size = self.window_size or most
        start = rollout // self.window_interval % (most - size + 1)
        return range(start, start + size)

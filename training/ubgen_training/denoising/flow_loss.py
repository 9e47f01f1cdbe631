"""The loss of denoising training for models of flow matching, which predict velocities.

With x = (1 - sigma) x0 + sigma noise, the network should predict dx/dsigma = noise - x0 (Lipman et al. 2023, Eq. 23).
Where on the way samples are shown, and what their errors weigh, is what diffusers' own training scripts call the
weighting scheme (Esser et al. 2024, sections 3.1 and 3.2):

    logit_normal    the share of the way is the sigmoid of a normal number: most in the middle
    mode            a heavier middle, or with a negative scale heavier ends
    sigma_sqrt      evenly, errors weighed by 1 / sigma^2
    cosmap          evenly, errors weighed by 2 / (pi (1 - 2 sigma + 2 sigma^2))
    none            evenly, errors weighed alike

Share 0 of the way is noise, 1 the image. The noise level there is the family's, shift included.

Shapes: B samples, T levels, C x h x w latents.
"""

import copy
import math
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

from ubgen_pipeline.family import Family

# each scheme and the settings that it reads
WEIGHTING_SCHEMES: dict[str, tuple[str, ...]] = {
    "logit_normal": ("logit_mean", "logit_std"),
    "mode": ("mode_scale",),
    "sigma_sqrt": (),
    "cosmap": (),
    "none": (),
}
# beyond it some shares would lie outside the way (Esser et al. 2024, Eq. 20)
_LARGEST_MODE_SCALE = 2 / (math.pi - 2)


@dataclass(frozen=True)
class FlowWeighting:
    """A weighting scheme and its settings; None takes diffusers' own.

    Raises:
        ValueError: an unknown scheme, or a setting out of range or that the scheme does not read.
    """

    weighting_scheme: str | None = None
    logit_mean: float | None = None
    logit_std: float | None = None
    mode_scale: float | None = None

    def __post_init__(self) -> None:
        if self.weighting_scheme not in (None, *WEIGHTING_SCHEMES):
            raise ValueError(
                f"weighting_scheme is {self.weighting_scheme!r}; choose one of {', '.join(WEIGHTING_SCHEMES)}."
            )
        for scheme, names in WEIGHTING_SCHEMES.items():
            for name in names:
                if getattr(self, name) is not None and scheme != self.scheme:
                    raise ValueError(
                        f"{name} is {getattr(self, name)}, but weighting_scheme is {self.scheme!r}; leave it out or"
                        f" choose {scheme!r}."
                    )
        if self.logit_mean is not None and not math.isfinite(self.logit_mean):
            raise ValueError(f"logit_mean is {self.logit_mean}; choose a number.")
        if self.logit_std is not None and not 0 < self.logit_std < math.inf:
            raise ValueError(f"logit_std is {self.logit_std}; choose a number above 0.")
        if self.mode_scale is not None and not -1 <= self.mode_scale <= _LARGEST_MODE_SCALE:
            raise ValueError(f"mode_scale is {self.mode_scale}; choose one from -1 to {_LARGEST_MODE_SCALE:.2f}.")

    @property
    def scheme(self) -> str:
        """The scheme's name, which is no longer None."""
        return self.weighting_scheme or "logit_normal"

    @property
    def is_default(self) -> bool:
        """Whether nothing was chosen."""
        return self == FlowWeighting()

    def shares(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Shares of the way ``(B,)`` in [0, 1]."""
        return compute_density_for_timestep_sampling(
            self.scheme,
            batch,
            logit_mean=0.0 if self.logit_mean is None else self.logit_mean,
            logit_std=1.0 if self.logit_std is None else self.logit_std,
            mode_scale=1.29 if self.mode_scale is None else self.mode_scale,
            generator=generator,
        )


class FlowLoss:
    """Mean squared error of the velocity, of each sample, weighed by its noise level.

    Args:
        sigmas: ``(T,)`` noise levels, from about 1 down.
        timesteps: ``(T,)`` as the denoiser reads them.
        weighting: where samples are shown, and what errors weigh.
    """

    def __init__(self, sigmas: torch.Tensor, timesteps: torch.Tensor, weighting: FlowWeighting | None = None):
        self.sigmas, self.timesteps = sigmas, timesteps
        self.weighting = weighting or FlowWeighting()
        self.weights = compute_loss_weighting_for_sd3(self.weighting.scheme, sigmas)

    def draw(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Positions ``(B,)`` among the levels; ``generator`` is on the CPU."""
        num_levels = len(self.sigmas)
        return (self.weighting.shares(batch, generator) * num_levels).long().clamp(0, num_levels - 1)

    def timesteps_at(self, position: torch.Tensor) -> torch.Tensor:
        """Timesteps ``(B,)`` as the denoiser reads them."""
        return self.timesteps.to(position.device)[position]

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """The network's input ``(B, C, h, w)``."""
        sigma = self.sigmas.to(clean.device, clean.dtype)[position].view(-1, *[1] * (clean.ndim - 1))
        return (1 - sigma) * clean + sigma * noise

    def __call__(
        self, prediction: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        """Loss ``(B,)`` in float32."""
        errors = (prediction.float() - (noise - clean).float()).square().flatten(1).mean(dim=1)
        return errors * self.weights.to(errors.device)[position]


def flow_schedule(pipeline: Family, shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise levels and timesteps, each ``(T,)`` on the CPU, that the family walks in as many steps as its scheduler
    was trained with.

    Where the shift depends on the number of steps, as FLUX.2's, it is that of the family's default number.

    Args:
        pipeline: of flow matching; its own scheduler stays as it is.
        shape: ``(C, h, w)`` of the latents, on which the shift may depend.
    """
    scheduler = copy.deepcopy(pipeline.scheduler)
    set_timesteps, shifts = scheduler.set_timesteps, []

    # families ask which arguments it takes
    @wraps(set_timesteps)
    def with_the_first_shift(*arguments: Any, **named: Any) -> None:
        if named.get("mu") is not None:
            shifts.append(named["mu"])
            named["mu"] = shifts[0]
        set_timesteps(*arguments, **named)

    scheduler.set_timesteps = with_the_first_shift
    walker = pipeline.with_scheduler(scheduler)
    walker.timesteps(walker.default_num_inference_steps, shape)
    timesteps = walker.timesteps(scheduler.config.num_train_timesteps, shape).cpu()
    return scheduler.sigmas[: len(timesteps)].float().cpu(), timesteps

"""What the loop asks of any of diffusers' schedulers: those of noise prediction, and those of flow matching, which
lack some of the methods.

Shapes: B samples, C x h x w latents.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch


def is_flow_scheduler(scheduler: Any) -> bool:
    """Whether the scheduler walks along velocities, x = (1 - sigma) x0 + sigma noise (Lipman et al. 2023)."""
    config = scheduler.config
    return hasattr(scheduler, "scale_noise") or config.get("prediction_type") == "flow_prediction"


def initial_scale(scheduler: Any) -> Any:
    """What standard normal noise is multiplied by before the first step; 1 for flow matching."""
    return getattr(scheduler, "init_noise_sigma", 1.0)


def model_input(scheduler: Any, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Latents ``(B, C, h, w)`` as the denoiser reads them at ``timestep ()``; flow matching scales nothing."""
    if not hasattr(scheduler, "scale_model_input"):
        return latents
    return scheduler.scale_model_input(latents, timestep)


def noised_latents(scheduler: Any, clean: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Clean latents with the noise of ``timestep ()``, one of ``scheduler.timesteps``; all ``(B, C, h, w)``.

    A scheduler that was told where it begins, or that has taken a step, gives the noise of its own place whatever
    timestep it is asked for. A copy that was told nothing looks the timestep up.

    Raises:
        ValueError: a scheduler that knows no such noise.
    """
    if getattr(scheduler, "begin_index", None) is not None:
        scheduler = copy.copy(scheduler)
        scheduler.set_begin_index(None)
    timesteps = timestep.reshape(1)
    if hasattr(scheduler, "add_noise"):
        return scheduler.add_noise(clean, noise, timesteps)
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(clean, timesteps, noise)
    raise ValueError(
        f"the scheduler is {type(scheduler).__name__}, which adds no noise to an image; leave source_images out."
    )


def noise_levels(scheduler: Any, timestep: torch.Tensor) -> tuple[float, float]:
    """(alpha, sigma) of x = alpha x0 + sigma noise at ``timestep ()``, one of ``scheduler.timesteps``.

    They are read off the scheduler's own noising of (x0, noise) = (1, 0) and (0, 1), the one public interface that
    variance-preserving, variance-exploding and flow schedulers share.
    """
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    timestep = timestep.detach().cpu()
    return (
        noised_latents(scheduler, one, zero, timestep).item(),
        noised_latents(scheduler, zero, one, timestep).item(),
    )


def noise_share(scheduler: Any, timestep: torch.Tensor) -> float:
    """sigma / (alpha + sigma) in [0, 1] at ``timestep ()``: a flow's own time, and for any scheduler a measure of the
    ratio of noise to image."""
    alpha, sigma = noise_levels(scheduler, timestep)
    return sigma / (alpha + sigma)


def has_time(scheduler: Any) -> bool:
    """Whether its timesteps are shares of the training's; others are logarithms of noise levels (EDM)."""
    return not hasattr(scheduler, "precondition_outputs") and scheduler.config.get("timestep_type") != "continuous"


def resolution_shift(scheduler: Any, num_tokens: int) -> float:
    """mu, the shift of the timesteps for images of so many tokens: linear between the two sizes of the scheduler's
    configuration (Esser et al. 2024, section 5.3.2; as FLUX and those after it have it)."""
    # this import loads a pipeline
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    config = scheduler.config
    return calculate_shift(
        num_tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )


def set_flow_timesteps(
    scheduler: Any,
    num_steps: int,
    device: torch.device | str,
    *,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
) -> torch.Tensor:
    """Prepare a scheduler of flow matching, and give its timesteps ``(T,)``.

    Args:
        scheduler: its history is cleared.
        num_steps: T.
        device: of the timesteps.
        sigmas: T noise levels before the shift; None takes the scheduler's own, as do schedulers that accept none, and
            those that make a flow's themselves (``use_flow_sigmas``), to which FLUX's stock call gives none either.
        mu: the shift that depends on the image's size; left out where the scheduler's configuration has none.
    """
    accepted = inspect.signature(scheduler.set_timesteps).parameters
    arguments: dict[str, Any] = {"device": device}
    if "mu" in accepted and scheduler.config.get("use_dynamic_shifting"):
        arguments["mu"] = mu
    if sigmas is not None and "sigmas" in accepted and not scheduler.config.get("use_flow_sigmas"):
        scheduler.set_timesteps(sigmas=list(sigmas), **arguments)
    else:
        scheduler.set_timesteps(num_steps, **arguments)
    return scheduler.timesteps

"""The noise levels of a rollout's steps, x = alpha x0 + sigma noise, apart from the scheduler's own state.

They are known for schedulers from which a jump to the clean latents is known. A prediction moves latents from one
level to another in one deterministic step (DDIM's; for flow matching Euler's): the clean latents and the noise that it
implies, mixed anew.

Shapes: B samples, C x h x w latents, T steps.
"""

import copy
from typing import Any

import torch

from ubgen_pipeline.latent_denoising import clean_latents_at, denoising_steps, prediction_type
from ubgen_pipeline.scheduler_noise import noise_levels

# one step for all samples, or (B,) steps
Position = int | torch.Tensor


class StepLevels:
    """What the steps of one rollout do to latents, without the scheduler's own state.

    A position counts from 0, the noisiest, to T, which is the end.

    Args:
        scheduler: its ``set_timesteps`` has run, and it has taken no step yet.
        timesteps: ``(T,)``.
    """

    def __init__(self, scheduler: Any, timesteps: torch.Tensor):
        self.kind, self.timesteps = prediction_type(scheduler), timesteps
        levels = [*(noise_levels(scheduler, timestep) for timestep in timesteps), (1.0, 0.0)]
        # (T + 1,) each
        self.alphas, self.sigmas = torch.tensor(levels, dtype=torch.float64).unbind(1)
        self.scales = input_scales(scheduler, timesteps)

    def clean(self, latents: torch.Tensor, prediction: torch.Tensor, position: Position) -> torch.Tensor:
        """x0 ``(B, C, h, w)`` implied by the prediction on the latents before the step at ``position``."""
        alpha, sigma = self._levels(position, latents)
        return clean_latents_at(self.kind, prediction, latents, alpha, sigma)

    def move(self, latents: torch.Tensor, prediction: torch.Tensor, position: Position, to: Position) -> torch.Tensor:
        """Latents ``(B, C, h, w)`` before the step ``to`` from those before ``position``."""
        clean = self.clean(latents, prediction, position)
        alpha, sigma = self._levels(position, latents)
        alpha_to, sigma_to = self._levels(to, latents)
        return alpha_to * clean + sigma_to * (latents - alpha * clean) / sigma

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, position: Position) -> torch.Tensor:
        """Clean latents with the noise of the level before the step at ``position``."""
        alpha, sigma = self._levels(position, clean)
        return alpha * clean + sigma * noise

    def without(self, latents: torch.Tensor, noise: torch.Tensor, position: Position) -> torch.Tensor:
        """The clean latents that :meth:`noised` was given."""
        alpha, sigma = self._levels(position, latents)
        return (latents - sigma * noise) / alpha

    def target(self, clean: torch.Tensor, noise: torch.Tensor, position: Position) -> torch.Tensor:
        """The prediction ``(B, C, h, w)`` that would be right on :meth:`noised` latents."""
        alpha, sigma = self._levels(position, clean)
        if self.kind == "sample":
            return clean
        if self.kind == "epsilon":
            return noise
        if self.kind == "v_prediction":
            return (alpha * noise - sigma * clean) / (alpha**2 + sigma**2) ** 0.5
        return noise - clean

    def read(self, latents: torch.Tensor, position: Position) -> torch.Tensor:
        """Latents as the denoiser reads them at ``position``."""
        return latents * _rows(self.scales, position, latents)

    def _levels(self, position: Position, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _rows(self.alphas, position, like), _rows(self.sigmas, position, like)


def _rows(values: torch.Tensor, position: Position, like: torch.Tensor) -> torch.Tensor:
    """``values`` at one position, ``()``, or at ``(B,)`` of them, ``(B, 1, 1, 1)``, on the device of ``like``."""
    chosen = values[position.cpu() if isinstance(position, torch.Tensor) else position].to(like.device, like.dtype)
    return chosen.view(-1, *[1] * (like.ndim - 1)) if chosen.ndim else chosen


def scheduler_copy(scheduler: Any) -> Any:
    """A scheduler of its own to walk with.

    Some keep what they last stepped, ``set_timesteps`` or not, and with it the graph of a rollout with gradient, which
    torch refuses to copy. The copy has the values alone.
    """
    kept = [part for value in vars(scheduler).values() for part in (value if isinstance(value, list) else [value])]
    tensors = [part for part in kept if isinstance(part, torch.Tensor)]
    return copy.deepcopy(scheduler, {id(tensor): tensor.detach().clone() for tensor in tensors})


def input_scales(scheduler: Any, timesteps: torch.Tensor) -> torch.Tensor:
    """``(T,)`` float64, what the scheduler multiplies latents with before the denoiser reads them at each step.

    Schedulers scale by a number that belongs to their own place, not to the timestep they are given, so a copy is
    walked there; its latents do not matter.

    Args:
        scheduler: its ``set_timesteps`` has run, and it has taken no step yet.
        timesteps: ``(T,)``.
    """
    latents, scales = torch.ones(1, 1, 1, 1, dtype=torch.float64), []
    walker, generators = scheduler_copy(scheduler), [torch.Generator().manual_seed(0)]
    for step in denoising_steps(
        lambda read, *_: scales.append(read) or torch.zeros_like(read),
        walker,
        latents,
        torch.zeros(1),
        timesteps=timesteps.cpu(),
        generators=generators,
    ):
        scales[-1] = float(scales[-1] / latents)
        latents = step.latents
    return torch.tensor(scales, dtype=torch.float64)

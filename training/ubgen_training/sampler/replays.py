"""Gradients that do not run through the rollout: it runs without a graph, and some of its steps are computed again.

Both ways need the noise level of every step, x = alpha x0 + sigma noise, so both take schedulers from which a jump to
the clean latents is known. A prediction moves latents from one level to another in one deterministic step (DDIM's;
for flow matching Euler's): the clean latents and the noise that it implies, mixed anew.

Shapes: B samples, C x h x w latents, T steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ubgen_pipeline.latent_denoising import predicted_clean_latents
from ubgen_pipeline.scheduler_noise import model_input, noise_levels

# (latents (B, C, h, w) as the scheduler steps them, position) -> guided prediction (B, C, h, w)
PredictAt = Callable[[torch.Tensor, int], torch.Tensor]


class StepLevels:
    """What the steps of one rollout do to latents, without the scheduler's own state.

    Args:
        scheduler: its ``set_timesteps`` has run, and it has taken no step yet.
        timesteps: ``(T,)``.
    """

    def __init__(self, scheduler: Any, timesteps: torch.Tensor):
        self.scheduler, self.timesteps = scheduler, timesteps
        # the last step ends at clean latents
        self.levels = [*(noise_levels(scheduler, timestep) for timestep in timesteps), (1.0, 0.0)]

    def clean(self, latents: torch.Tensor, prediction: torch.Tensor, position: int) -> torch.Tensor:
        """x0 ``(B, C, h, w)`` implied by the prediction on the latents before the step at ``position``."""
        return predicted_clean_latents(self.scheduler, prediction, self.timesteps[position], latents)

    def move(self, latents: torch.Tensor, prediction: torch.Tensor, position: int, to: int) -> torch.Tensor:
        """Latents ``(B, C, h, w)`` before the step ``to``, T being the end, from those before ``position``."""
        clean = self.clean(latents, prediction, position)
        (alpha, sigma), (alpha_to, sigma_to) = self.levels[position], self.levels[to]
        noise = (latents - alpha * clean) / sigma
        return alpha_to * clean + sigma_to * noise

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, position: int) -> torch.Tensor:
        """Clean latents with the noise of the level before the step at ``position``."""
        alpha, sigma = self.levels[position]
        return alpha * clean + sigma * noise


@dataclass(frozen=True)
class KeptRollout:
    """Of a rollout without gradient: latents ``(B, C, h, w)`` before the kept positions, and the ``clean`` ones it
    ended with."""

    before: Mapping[int, torch.Tensor]
    clean: torch.Tensor


def leap(rollout: KeptRollout, levels: StepLevels, predict: PredictAt, discount: float) -> torch.Tensor:
    """The rollout's clean latents, with the gradient of leaps between its kept positions (arXiv 2604.15311).

    From each kept position one prediction leaps to the next and from the last to the end. What a leap arrives at is
    replaced by what the rollout had there; only its gradient stays. The gradient from one prediction into another is
    multiplied by ``discount``: 1 is that of the chain of leaps, 0 leaves each prediction its own part alone. The
    paper's weights for leaps that keep close to the rollout are left out.

    Args:
        rollout: with two kept positions, as in the paper, or any number from one on.
        levels: those of the rollout's steps.
        predict: computes with gradient.
        discount: in [0, 1].
    """
    positions: Sequence[int] = sorted(rollout.before)
    latents = rollout.before[positions[0]]
    for position, following in zip(positions, [*positions[1:], len(levels.timesteps)]):
        # the value of either term of the sum is that of the latents
        read = latents.detach() + discount * (latents - latents.detach())
        landed = levels.move(latents, predict(read, position), position, following)
        latents = landed + (rollout.before.get(following, rollout.clean) - landed).detach()
    return latents


def direct_align(
    clean: torch.Tensor, noise: torch.Tensor, levels: StepLevels, predict: PredictAt, position: int
) -> torch.Tensor:
    """Clean latents recovered with known noise after one step that carries gradient (SRPO, arXiv 2509.06942).

    ``clean`` gets ``noise`` of the level at ``position``, one prediction takes the step to the next level, and there
    the known noise is taken off again: with the right prediction the result is ``clean`` itself. So early steps, where
    a jump would give a blurred image, give a sharp one.

    Args:
        clean: ``(B, C, h, w)``, without gradient.
        noise: standard normal, of its shape.
        levels: those of the rollout's steps.
        predict: computes with gradient.
        position: of the step.
    """
    noisy = levels.noised(clean, noise, position)
    moved = levels.move(noisy, predict(noisy, position), position, position + 1)
    alpha, sigma = levels.levels[position + 1]
    return (moved - sigma * noise) / alpha


class InputScales:
    """How the scheduler scales what the denoiser reads at each position, noted while a rollout passes there.

    Schedulers that scale do so by a number, and by their own place, not by the timestep that they are given: once the
    rollout is over they cannot be asked again.
    """

    def __init__(self) -> None:
        self.scales: dict[int, torch.Tensor] = {}

    def note(self, scheduler: Any, position: int, timestep: torch.Tensor) -> None:
        """To be called right before the step at ``position``."""
        one = torch.ones(1, dtype=torch.float64, device=timestep.device)
        self.scales[position] = model_input(scheduler, one, timestep)

    def __call__(self, latents: torch.Tensor, position: int) -> torch.Tensor:
        """Latents as the denoiser reads them at ``position``."""
        return latents * self.scales[position].to(latents.dtype)

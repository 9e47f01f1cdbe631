"""Gradients that do not run through the rollout: it runs without a graph, and some of its steps are computed again.

Both ways need the noise level of every step; see :mod:`.step_levels`.

Shapes: B samples, C x h x w latents, T steps.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .equalised_gradients import equalising_factors, mean_weight, scaled_gradient
from .step_levels import StepLevels

# (latents (B, C, h, w) as the scheduler steps them, position) -> guided prediction (B, C, h, w)
PredictAt = Callable[[torch.Tensor, int], torch.Tensor]


class ReplayedRollout(Protocol):
    """What a replay needs of a rollout; :class:`.rollout.Rollout` has it."""

    @property
    def levels(self) -> StepLevels:
        """Those of its steps."""
        ...

    @property
    def weights(self) -> list[float]:
        """Those of its steps, T of them; see :func:`.equalised_gradients.step_weights`."""
        ...

    def kept(self, positions: Collection[int]) -> "KeptRollout":
        """Run it without gradient, once, and keep the latents before these positions."""
        ...

    def predict_at(self, latents: torch.Tensor, position: int) -> torch.Tensor:
        """The guided prediction ``(B, C, h, w)``, with gradient."""
        ...

    def more_noise(self) -> torch.Tensor:
        """Standard normal ``(B, C, h, w)`` of the samples' seeds, after what the rollout took of it."""
        ...


class Replay(Protocol):
    """A way to the clean latents whose gradient is that of steps computed again after the rollout."""

    def latents(self, rollout: ReplayedRollout, positions: Collection[int], equalise: bool) -> torch.Tensor:
        """The clean latents ``(B, C, h, w)``, with the gradient of the steps at ``positions``."""
        ...


@dataclass(frozen=True)
class Leap:
    """:func:`leap` with its ``discount`` and ``tolerance``; the steps' gradients cannot be equalised."""

    discount: float = 1.0
    tolerance: float | None = None

    def latents(self, rollout: ReplayedRollout, positions: Collection[int], equalise: bool) -> torch.Tensor:
        kept = rollout.kept(positions)
        return leap(kept, rollout.levels, rollout.predict_at, self.discount, self.tolerance)


@dataclass(frozen=True)
class DirectAlign:
    """:func:`direct_align` from one position."""

    def latents(self, rollout: ReplayedRollout, positions: Collection[int], equalise: bool) -> torch.Tensor:
        (position,), factor = positions, 1.0
        clean = rollout.kept(()).clean
        if equalise:
            weight = direct_align_weight(rollout.levels, position)
            (factor,) = equalising_factors([weight], mean_weight(rollout.weights))

        def predict(latents: torch.Tensor, position: int) -> torch.Tensor:
            return scaled_gradient(rollout.predict_at(latents, position), factor)

        return direct_align(clean, rollout.more_noise(), rollout.levels, predict, position)


@dataclass(frozen=True)
class KeptRollout:
    """Of a rollout without gradient: latents ``(B, C, h, w)`` before the kept positions, and the ``clean`` ones it
    ended with."""

    before: Mapping[int, torch.Tensor]
    clean: torch.Tensor


def leap(
    rollout: KeptRollout,
    levels: StepLevels,
    predict: PredictAt,
    discount: float,
    tolerance: float | None = None,
) -> torch.Tensor:
    """The rollout's clean latents, with the gradient of leaps between its kept positions (arXiv 2604.15311).

    From each kept position one prediction leaps to the next and from the last to the end. What a leap arrives at is
    replaced by what the rollout had there; only its gradient stays. The gradient from one prediction into another is
    multiplied by ``discount``: 1 is that of the chain of leaps, 0 leaves each prediction its own part alone.

    With d the mean absolute distance of where a leap lands from where the rollout was, and τ the ``tolerance``, a
    sample's gradient is weighed by K τ / Σ max(d, τ) over its K leaps: the paper's weight, made 1 for leaps that land
    within the tolerance.

    Args:
        rollout: with two kept positions, as in the paper, or any number from one on.
        levels: those of the rollout's steps.
        predict: computes with gradient.
        discount: in [0, 1].
        tolerance: above 0; None weighs all samples alike.
    """
    distances = []
    positions: Sequence[int] = sorted(rollout.before)
    latents = rollout.before[positions[0]]
    for position, following in zip(positions, [*positions[1:], len(levels.timesteps)]):
        # the value of either term of the sum is that of the latents
        read = latents.detach() + discount * (latents - latents.detach())
        landed = levels.move(latents, predict(read, position), position, following)
        away = (rollout.before.get(following, rollout.clean) - landed).detach()
        distances.append(away.abs().flatten(1).mean(dim=1))
        latents = landed + away
    if tolerance is None:
        return latents
    weights = len(distances) * tolerance / torch.stack(distances).clamp(min=tolerance).sum(dim=0)
    return latents.detach() + weights[:, None, None, None] * (latents - latents.detach())


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
    return levels.without(moved, noise, position + 1)


def direct_align_weight(levels: StepLevels, position: int) -> float:
    """What the one prediction of :func:`direct_align` weighs in the clean latents."""
    one = torch.zeros(1, dtype=torch.float64)
    prediction = one.clone().requires_grad_(True)
    with torch.enable_grad():
        recovered = direct_align(one, one, levels, lambda *_: prediction, position)
        (gradient,) = torch.autograd.grad(recovered.sum(), prediction)
    return float(gradient)

"""Gradients of which every sampling step has the same share, instead of the share that the scheduler gives it.

The final latents are linear in each step's prediction while the others stay as they are: x_end = ... + w_i p_i. What a
step learns from its own prediction is w_i times the gradient at the final latents, and |w_i| differs from step to step
many times over. Divided by |w_i| all steps count alike.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.latent_denoising import Denoiser, denoising_steps

from .step_levels import scheduler_copy


def step_weights(
    scheduler: Any, timesteps: torch.Tensor, *, eta: float = 0.0, stop_at: int | None = None
) -> list[float]:
    """w_i of every position, T of them, or ``stop_at + 1``.

    Found by walking the scheduler's steps, or rather a copy's, over a latent of one number.

    Args:
        scheduler: its ``set_timesteps`` has run, and it has taken no step yet.
        timesteps: ``(T,)``.
        eta: DDIM's noise share.
        stop_at: after this position the loop jumps to the clean latents.
    """
    predictions: list[torch.Tensor] = []

    def predict(latents: torch.Tensor, *_: Any) -> torch.Tensor:
        predictions.append(torch.zeros_like(latents, requires_grad=True))
        return predictions[-1]

    # so small that a scheduler which clips what it predicts does not clip here
    latents = torch.full((1, 1, 1, 1), 1e-3, dtype=torch.float64)
    loop = denoising_steps(
        predict,
        scheduler_copy(scheduler),
        latents,
        torch.zeros(1),
        timesteps=timesteps.cpu(),
        generators=[torch.Generator().manual_seed(0)],
        eta=eta,
        stop_at=stop_at,
    )
    with torch.enable_grad():
        for step in loop:
            latents = step.latents
        gradients = torch.autograd.grad(latents.sum(), predictions, allow_unused=True)
    return [0.0 if gradient is None else float(gradient) for gradient in gradients]


def equalising_factors(weights: Sequence[float], mean_weight: float) -> list[float]:
    """What the gradients of predictions with these weights are multiplied by: ``mean_weight`` / |w|, and 1 where a
    prediction has no weight at all.

    ``mean_weight`` is the mean of the rollout's |w_i|, so that the gradient as a whole keeps its size.
    """
    return [mean_weight / abs(weight) if weight else 1.0 for weight in weights]


def mean_weight(weights: Sequence[float]) -> float:
    """Mean of |w_i|."""
    return sum(map(abs, weights)) / len(weights)


def scaled_gradient(prediction: torch.Tensor, factor: float) -> torch.Tensor:
    """``prediction`` itself, through which the gradient comes back multiplied by ``factor``."""
    if not prediction.requires_grad or factor == 1:
        return prediction
    # the sum of two tensors would round the value
    return _ScaledGradient.apply(prediction, factor)


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prediction: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return prediction.view_as(prediction)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * ctx.factor, None


class ScaledGradients:
    """A denoiser whose n-th answer carries its gradient multiplied by ``factors[n]``; the answers are the same.

    Make one for each rollout; both halves under guidance are one answer.
    """

    def __init__(self, denoiser: Denoiser, factors: Sequence[float]):
        self.denoiser, self.factors, self._calls = denoiser, factors, 0

    def __call__(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning | torch.Tensor
    ) -> torch.Tensor:
        prediction = self.denoiser(latents, timestep, conditioning)
        factor = self.factors[self._calls]
        self._calls += 1
        return scaled_gradient(prediction, factor)

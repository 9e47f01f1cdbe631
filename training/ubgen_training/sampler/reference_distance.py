"""How far the trained denoiser has moved from a reference: the model it started from, itself with the adapters off.

At each sampling step that carries gradient, with prediction e of the trained denoiser and e0 of the untrained one for
the same inputs, both after guidance: mean over the elements of (e - e0)^2, then the mean over those steps. Where a
scheduler adds noise of variance s^2 and its mean is linear in the prediction with factor c, the step's KL divergence
is c^2 / (2 s^2) times the sum over elements: this is the KL up to a factor of the step (DPOK, Fan et al. 2023;
the factor is left out, as in the noise-prediction loss of Ho et al. 2020).
Shapes: B samples, N denoiser rows (2B under guidance, unconditional half first), C x H x W latents.

Training on rewards makes predictions longer, and images worse with that (NormGuard, arXiv 2606.27771). So beside the
distance there is the excess in norm, relu(|e| / |e0| - 1)^2, which is 0 while predictions are no longer than e0.

Deliberate choice: e0 is a constant. The gradient is that of (e - e0)^2 through e, into the weights and, unless the
strategy detaches them, into the inputs of the step, as the rewards' own gradient goes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from ubgen_pipeline.latent_denoising import Condition, Denoiser, Guidance, classifier_free_guidance

from ..lora.adapter import adapters_disabled


class ReferenceReport(NamedTuple):
    """``distance (B,)`` and ``norm_excess (B,)``; see the module."""

    distance: torch.Tensor
    norm_excess: torch.Tensor


def norm_excess(prediction: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """By which share ``prediction`` is longer than ``reference``, squared, ``(B,)`` float32, or 0; both ``(B, …)``."""
    own, other = (value.float().flatten(1).norm(dim=1) for value in (prediction, reference.detach()))
    return (own / other.clamp(min=torch.finfo(other.dtype).tiny) - 1).relu().square()


def prediction_distance(
    prediction: torch.Tensor,
    reference: torch.Tensor,
    guidance_scale: float,
    guide: Guidance = classifier_free_guidance,
) -> torch.Tensor:
    """Mean squared difference ``(B,)`` float32 of two predictions ``(N, C, H, W)`` after guidance."""
    guided = _guided(prediction, reference, guidance_scale, guide)
    return (guided[0] - guided[1]).square().flatten(1).mean(dim=1)


def _guided(
    prediction: torch.Tensor, reference: torch.Tensor, guidance_scale: float, guide: Guidance
) -> list[torch.Tensor]:
    """Both ``(B, C, H, W)`` float32 after guidance."""
    guided = [prediction.float(), reference.float()]
    if guidance_scale > 1:
        halves = [value.chunk(2) for value in guided]
        guided = [guide(conditional, unconditional, guidance_scale) for unconditional, conditional in halves]
    return guided


class ReferenceDistance:
    """A denoiser that answers as the one it wraps, and measures the distance at the calls that carry gradient.

    Make one for each rollout. It costs one call without gradient more for each call with gradient.

    Args:
        denoiser: ``(latents (N, C, H, W), timestep (), conditioning of N rows) -> (N, C, H, W)``.
        module: the network inside ``denoiser``, with the adapters.
        guidance_scale: of classifier-free guidance, as the loop applies it.
        guide: how the two predictions become one.
        reference_model: makes ``module`` the reference inside a ``with``; None switches its adapters off.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        module: nn.Module,
        guidance_scale: float,
        guide: Guidance = classifier_free_guidance,
        reference_model: Callable[[], AbstractContextManager] | None = None,
    ):
        self.denoiser = denoiser
        self.reference_model = reference_model or partial(adapters_disabled, module)
        self.guidance_scale, self.guide = guidance_scale, guide
        self.distances: list[torch.Tensor] = []
        self.norm_excesses: list[torch.Tensor] = []

    def __call__(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Condition, **kwargs: Any
    ) -> torch.Tensor:
        prediction = self.denoiser(latents, timestep, conditioning, **kwargs)
        # the loop runs the denoiser under no_grad at every other step
        if torch.is_grad_enabled():
            with torch.no_grad(), self.reference_model():
                reference = self.denoiser(latents, timestep, conditioning, **kwargs)
            both = prediction, reference
            self.distances.append(prediction_distance(*both, self.guidance_scale, self.guide))
            self.norm_excesses.append(norm_excess(*_guided(*both, self.guidance_scale, self.guide)))
        return prediction

    def report(self) -> ReferenceReport:
        """Distance and excess of each sample, averaged over the steps measured.

        Raises:
            ValueError: no call carried gradient.
        """
        if not self.distances:
            raise ValueError(
                "no sampling step carried gradient, so reference_weight has nothing to act on; "
                "choose num_gradient_steps of 1 or more, or set reference_weight to 0."
            )
        return ReferenceReport(*(torch.stack(one).mean(dim=0) for one in (self.distances, self.norm_excesses)))

"""How far the trained denoiser has moved from the model it started from, which is itself with the adapters off.

At each sampling step that carries gradient, with prediction e of the trained denoiser and e0 of the untrained one for
the same inputs, both after guidance: mean over the elements of (e - e0)^2, then the mean over those steps. Where a
scheduler adds noise of variance s^2 and its mean is linear in the prediction with factor c, the step's KL divergence
is c^2 / (2 s^2) times the sum over elements: this is the KL up to a factor of the step (DPOK, Fan et al. 2023;
the factor is left out, as in the noise-prediction loss of Ho et al. 2020).
Shapes: B samples, N denoiser rows (2B under guidance, unconditional half first), C x H x W latents.

Deliberate choice: e0 is a constant. The gradient is that of (e - e0)^2 through e, into the weights and, unless the
strategy detaches them, into the inputs of the step, as the rewards' own gradient goes.
"""

from typing import Any

import torch
from torch import nn

from ubgen_pipeline.latent_denoising import Condition, Denoiser, Guidance, classifier_free_guidance

from ..lora.adapter import adapters_disabled


def prediction_distance(
    prediction: torch.Tensor,
    reference: torch.Tensor,
    guidance_scale: float,
    guide: Guidance = classifier_free_guidance,
) -> torch.Tensor:
    """Mean squared difference ``(B,)`` float32 of two predictions ``(N, C, H, W)`` after guidance."""
    guided = [prediction.float(), reference.float()]
    if guidance_scale > 1:
        halves = [value.chunk(2) for value in guided]
        guided = [guide(conditional, unconditional, guidance_scale) for unconditional, conditional in halves]
    return (guided[0] - guided[1]).square().flatten(1).mean(dim=1)


class ReferenceDistance:
    """A denoiser that answers as the one it wraps, and measures the distance at the calls that carry gradient.

    Make one for each rollout. It costs one call without gradient more for each call with gradient.

    Args:
        denoiser: ``(latents (N, C, H, W), timestep (), conditioning of N rows) -> (N, C, H, W)``.
        module: the network inside ``denoiser``, with the adapters.
        guidance_scale: of classifier-free guidance, as the loop applies it.
        guide: how the two predictions become one.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        module: nn.Module,
        guidance_scale: float,
        guide: Guidance = classifier_free_guidance,
    ):
        self.denoiser = denoiser
        self.module = module
        self.guidance_scale, self.guide = guidance_scale, guide
        self.distances: list[torch.Tensor] = []

    def __call__(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Condition, **kwargs: Any
    ) -> torch.Tensor:
        prediction = self.denoiser(latents, timestep, conditioning, **kwargs)
        # the loop runs the denoiser under no_grad at every other step
        if torch.is_grad_enabled():
            with torch.no_grad(), adapters_disabled(self.module):
                reference = self.denoiser(latents, timestep, conditioning, **kwargs)
            self.distances.append(prediction_distance(prediction, reference, self.guidance_scale, self.guide))
        return prediction

    def mean(self) -> torch.Tensor:
        """The distance ``(B,)`` of each sample, averaged over the steps measured.

        Raises:
            ValueError: no call carried gradient.
        """
        if not self.distances:
            raise ValueError(
                "no sampling step carried gradient, so reference_weight has nothing to act on; "
                "choose num_gradient_steps of 1 or more, or set reference_weight to 0."
            )
        return torch.stack(self.distances).mean(dim=0)

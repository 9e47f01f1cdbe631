"""The sampler as a policy: a rollout with the log-probability of every step, and the same steps judged again.

Both are one ``forward``, so that DistributedDataParallel and FSDP see one call. Where rollout and judgement use
batches of one size and the same weights, their log-probabilities are equal to the last bit.
Shapes: B samples or pairs, T steps, C x h x w latents, H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.latent_denoising import guided_prediction
from ubgen_pipeline.scheduler_noise import initial_scale

from ..lora.adapter import adapters_disabled
from ..sampler.gradient_steps import GradientSteps
from ..sampler.sampler_model import SamplerModel
from .flow_dynamics import StochasticFlowScheduler
from .step_log_probability import StepCoefficients, gaussian_kl, log_probability, step_coefficients


@dataclass(frozen=True)
class Trajectories:
    """What a rollout gives: ``images (B, 3, H, W)``, ``latents (B, T + 1, C, h, w)`` from noise to clean, and
    ``log_probs (B, T)`` of the steps between them, 0 where a step adds no noise."""

    images: torch.Tensor
    latents: torch.Tensor
    log_probs: torch.Tensor


@dataclass(frozen=True)
class Transitions:
    """B steps taken: at position ``index (B,)``, from ``latents`` to ``next_latents``, both ``(B, C, h, w)``."""

    index: torch.Tensor
    latents: torch.Tensor
    next_latents: torch.Tensor


class PolicySampler(SamplerModel):
    """A :class:`SamplerModel` that knows the probability of its steps.

    Args:
        log_probability: ``mean`` over the elements of a latent, or ``sum``; see :func:`log_probability`.
        arguments: those of :class:`SamplerModel`; the scheduler is DDPM, or DDIM with ``sampling.eta`` above 0, or a
            :class:`.StochasticFlowScheduler`.

    Raises:
        ValueError: a scheduler whose steps have no log-probability.
    """

    def __init__(self, *arguments: Any, log_probability: str = "mean", **settings: Any):
        super().__init__(*arguments, **settings)
        self.reduction = log_probability
        self.coefficients = self._coefficients()

    def _coefficients(self) -> StepCoefficients:
        self.pipeline.timesteps(self.sampling.num_inference_steps, self.latent_shape)
        scheduler, eta = self.pipeline.scheduler, self.sampling.eta
        is_flow = isinstance(scheduler, StochasticFlowScheduler)
        return scheduler.coefficients(eta) if is_flow else step_coefficients(scheduler, eta)

    def set_window(self, window: range) -> None:
        """Let the steps at these positions draw, and no others; where all of a schedule's do, nothing changes."""
        scheduler = self.pipeline.scheduler
        if isinstance(scheduler, StochasticFlowScheduler) and scheduler.window != window:
            scheduler.window = window
            self.coefficients = self._coefficients()

    def forward(
        self,
        labels: torch.Tensor,
        seeds: Sequence[int] = (),
        gradient_steps: GradientSteps | None = None,
        *,
        record: bool = False,
        transitions: Transitions | None = None,
        with_reference: bool = False,
    ) -> Any:
        """Images ``(B, 3, H, W)``, as the base; or :class:`Trajectories`; or log-probabilities.

        Args:
            labels, seeds, gradient_steps: as in the base.
            record: give :class:`Trajectories` instead of images.
            transitions: B steps; give ``(log_probs (B,), kl (B,) or None)`` instead. ``seeds`` are not read.
            with_reference: give that ``kl``, to the model without its adapter.
        """
        if transitions is not None:
            return self._judge(labels, transitions, with_reference)
        return self._roll_out(labels, seeds) if record else super().forward(labels, seeds, gradient_steps)

    def _roll_out(self, labels: torch.Tensor, seeds: Sequence[int]) -> Trajectories:
        scheduler = self.pipeline.scheduler
        latents = [draw_latents(seeds, self.latent_shape).to(self.denoiser_network.device) * initial_scale(scheduler)]
        log_probs = []
        trainable = set(self.coefficients.stochastic_steps)
        for step in self.denoise(labels, seeds):
            if step.index in trainable:
                index = torch.full((len(labels),), step.index)
                log_probs.append(self._log_probs(index, latents[-1], step.latents, step.prediction)[0])
            else:
                log_probs.append(step.latents.new_zeros(len(labels)))
            latents.append(step.latents)
        return Trajectories(self.decode(latents[-1]), torch.stack(latents, dim=1), torch.stack(log_probs, dim=1))

    def _judge(
        self, labels: torch.Tensor, transitions: Transitions, with_reference: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        index, latents = transitions.index, transitions.latents
        reference_mean = None
        if with_reference:
            with torch.no_grad(), adapters_disabled(self.denoiser_network):
                prediction = self._predict(labels, index, latents)
                reference_mean = self.coefficients.step_mean(index, latents, prediction)
        prediction = self._predict(labels, index, latents)
        log_probs, mean, deviation = self._log_probs(index, latents, transitions.next_latents, prediction)
        if reference_mean is None:
            return log_probs, None
        return log_probs, gaussian_kl(mean, reference_mean, deviation, self.reduction)

    def _predict(self, labels: torch.Tensor, index: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        timesteps = self.pipeline.timesteps(self.sampling.num_inference_steps, self.latent_shape)
        conditioning, negative = self.conditioning_of(labels)
        given = conditioning if negative is None else conditioning.guided(negative)
        # neither DDPM and DDIM nor flows scale the latents that a model reads
        timesteps = timesteps.to(latents.device)[index.to(latents.device)]
        return guided_prediction(self.predict, latents, timesteps, given, self.guidance_scale, self.pipeline.guide)

    def _log_probs(
        self, index: torch.Tensor, latents: torch.Tensor, next_latents: torch.Tensor, prediction: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities ``(B,)``, with the means ``(B, C, h, w)`` and deviations ``(B,)`` they come from."""
        mean = self.coefficients.step_mean(index, latents, prediction)
        deviation = self.coefficients.deviation[index.cpu()].to(mean.device, mean.dtype)
        return log_probability(next_latents, mean, deviation, self.reduction), mean, deviation

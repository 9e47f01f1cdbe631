"""The sampler as a policy: a rollout with the log-probability of every step, and the same steps judged again.

Both are one ``forward``, so that DistributedDataParallel and FSDP see one call. Where rollout and judgement use
batches of one size and the same weights, their log-probabilities are equal to the last bit.
Shapes: B samples or pairs, T steps, C x h x w latents, H x W pixels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ubgen_pipeline.latent_denoising import guided_prediction

from ..sampler.gradient_steps import GradientSteps
from ..sampler.reference_distance import norm_excess
from ..sampler.sampler_model import SamplerModel
from .flow_dynamics import StochasticFlowScheduler
from .step_log_probability import (
    StepCoefficients,
    gaussian_kl,
    log_probability,
    normalised_log_ratio,
    step_coefficients,
)


@dataclass(frozen=True)
class Trajectories:
    """What a rollout gives: ``images (B, 3, H, W)``, ``latents (B, T + 1, C, h, w)`` from noise to clean, and
    ``log_probs (B, T)`` and, where asked for, ``means (B, T, C, h, w)`` of the steps between them, 0 where a step adds
    no noise."""

    images: torch.Tensor
    latents: torch.Tensor
    log_probs: torch.Tensor
    means: torch.Tensor | None = None


@dataclass(frozen=True)
class Transitions:
    """B steps taken: at position ``index (B,)``, from ``latents`` to ``next_latents``, both ``(B, C, h, w)``.

    With ``old_means (B, C, h, w)``, which the steps had when they were taken, their log-ratios are judged.
    """

    index: torch.Tensor
    latents: torch.Tensor
    next_latents: torch.Tensor
    old_means: torch.Tensor | None = None


class Judgement(NamedTuple):
    """Of B steps ``log_probs (B,)``; where asked for, the ``kl (B,)`` to the reference model and the ``norm_excess
    (B,)`` over it, else None."""

    log_probs: torch.Tensor
    kl: torch.Tensor | None
    norm_excess: torch.Tensor | None


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

    def level_falls(self, index: torch.Tensor) -> torch.Tensor:
        """By how much the noise level falls ``(B,)`` at the steps ``index (B,)`` of a flow."""
        self.pipeline.timesteps(self.sampling.num_inference_steps, self.latent_shape)
        sigmas: Any = self.pipeline.scheduler.sigmas
        return (sigmas[:-1] - sigmas[1:]).cpu()[index.cpu()]

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
        with_means: bool = False,
        transitions: Transitions | None = None,
        with_reference: bool = False,
    ) -> Any:
        """Images ``(B, 3, H, W)``, as the base; or :class:`Trajectories`; or log-probabilities.

        A window is one of rollouts. Images are drawn without it: those of one seed, which evaluations compare, must
        differ by the weights alone and not by where the window is.

        Args:
            labels, seeds, gradient_steps: as in the base.
            record: give :class:`Trajectories` instead of images.
            with_means: give their means, too.
            transitions: B steps; give their :class:`Judgement` instead. ``seeds`` are not read. Where they hold the
                old means, its ``log_probs`` are normalised log-ratios; see :func:`normalised_log_ratio`.
            with_reference: compare with the reference model.
        """
        if transitions is not None:
            return self._judge(labels, transitions, with_reference)
        if record:
            return self._roll_out(labels, seeds, with_means)
        with self._without_window():
            return super().forward(labels, seeds, gradient_steps)

    @contextmanager
    def _without_window(self) -> Iterator[None]:
        scheduler = self.pipeline.scheduler
        window = getattr(scheduler, "window", None)
        if window is None:
            yield
            return
        scheduler.window = None
        try:
            yield
        finally:
            scheduler.window = window

    def _roll_out(self, labels: torch.Tensor, seeds: Sequence[int], with_means: bool) -> Trajectories:
        rollout = self.rollout(labels, seeds)
        latents, log_probs, means = [rollout.initial_latents], [], []
        trainable = set(self.coefficients.stochastic_steps)
        for step in rollout.steps():
            if step.index in trainable:
                index = torch.full((len(labels),), step.index)
                log_prob, mean, _ = self._log_probs(index, latents[-1], step.latents, step.prediction)
            else:
                log_prob, mean = step.latents.new_zeros(len(labels)), torch.zeros_like(latents[-1])
            log_probs.append(log_prob)
            latents.append(step.latents)
            if with_means:
                means.append(mean)
        kept = (torch.stack(parts, dim=1) for parts in (latents, log_probs, *([means] if with_means else [])))
        return Trajectories(self.decode(latents[-1]), *kept)

    def _judge(self, labels: torch.Tensor, transitions: Transitions, with_reference: bool) -> Judgement:
        index, latents = transitions.index, transitions.latents
        reference = None
        if with_reference:
            with torch.no_grad(), self.reference_model():
                reference = self._predict(labels, index, latents)
        prediction = self._predict(labels, index, latents)
        log_probs, mean, deviation = self._log_probs(index, latents, transitions.next_latents, prediction)
        if transitions.old_means is not None:
            judged = transitions.next_latents, mean, transitions.old_means, deviation
            log_probs = normalised_log_ratio(*judged, self.reduction)
        if reference is None:
            return Judgement(log_probs, None, None)
        reference_mean = self.coefficients.step_mean(index, latents, reference)
        kl = gaussian_kl(mean, reference_mean, deviation, self.reduction)
        return Judgement(log_probs, kl, norm_excess(prediction, reference))

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

"""One rollout of the sampler: the noise of a batch's seeds, denoised step by step.

Shapes: B samples, C x h x w latents, T steps.
"""

from collections.abc import Collection, Iterator, Sequence

import torch

from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.family import Family
from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.latent_denoising import (
    Denoiser,
    DenoisingStep,
    check_jump,
    denoising_steps,
    guided_conditioning,
    guided_prediction,
)
from ubgen_pipeline.scheduler_noise import initial_scale

from .equalised_gradients import ScaledGradients, equalising_factors, mean_weight, step_weights
from .gradient_steps import GradientSteps
from .replays import KeptRollout
from .step_levels import StepLevels


class Rollout:
    """It can be run once: by :meth:`steps`, :meth:`latents` or :meth:`kept`.

    Args:
        pipeline: its scheduler is made ready, here.
        denoiser: called at every step.
        seeds: B integers in [0, 2**63): the noise, initial and of every step.
        conditioning: B rows.
        negative: what is guided away from; None without guidance.
        guidance_scale: 1 without guidance.
        latent_shape: ``(C, h, w)``.
        num_inference_steps: asked for; some schedulers take more.
        eta: DDIM's noise share.
    """

    def __init__(
        self,
        pipeline: Family,
        denoiser: Denoiser,
        seeds: Sequence[int],
        conditioning: Conditioning,
        negative: Conditioning | None,
        *,
        guidance_scale: float,
        latent_shape: tuple[int, int, int],
        num_inference_steps: int,
        eta: float = 0.0,
    ):
        self.denoiser, self.conditioning, self.negative = denoiser, conditioning, negative
        self.guidance_scale, self.guide, self.eta = guidance_scale, pipeline.guide, eta
        device = pipeline.denoiser_network.device
        self.timesteps = pipeline.timesteps(num_inference_steps, latent_shape).to(device)
        # only now: a family may make its scheduler anew
        self.scheduler = pipeline.scheduler
        self.initial_latents = draw_latents(seeds, latent_shape).to(device) * initial_scale(self.scheduler)
        self.generators = step_generators(seeds)
        self._levels: StepLevels | None = None
        self._weights: list[float] | None = None

    def latents(self, gradient_steps: GradientSteps | None = None) -> torch.Tensor:
        """The clean latents ``(B, C, h, w)``, with the gradient of ``gradient_steps``; None: of all steps.

        Raises:
            ValueError: they do not fit the steps; see :func:`denoising_steps`.
        """
        if gradient_steps is not None and gradient_steps.replay is not None:
            return gradient_steps.replay.latents(self, gradient_steps.steps, gradient_steps.equalise)
        latents = self.initial_latents
        for step in self.steps(gradient_steps):
            latents = step.latents
        return latents

    def steps(self, gradient_steps: GradientSteps | None = None) -> Iterator[DenoisingStep]:
        """One after another; the arguments and errors of :meth:`latents`, but for replays."""
        chosen = gradient_steps or GradientSteps(frozenset(range(len(self.timesteps))))
        denoiser = self.denoiser
        if chosen.equalise:
            denoiser = ScaledGradients(denoiser, self._equalising_factors(chosen.stop_at))
        return denoising_steps(
            denoiser,
            self.scheduler,
            self.initial_latents,
            self.conditioning,
            negative=self.negative,
            guidance_scale=self.guidance_scale,
            guide=self.guide,
            timesteps=self.timesteps,
            generators=self.generators,
            gradient_steps=chosen.steps,
            detach_inputs=chosen.detach_inputs,
            stop_at=chosen.stop_at,
            eta=self.eta,
        )

    def _equalising_factors(self, stop_at: int | None) -> list[float]:
        """What the gradients of all steps' predictions are multiplied by, so that each has the same weight."""
        weights = self.weights
        if stop_at is not None:
            weights = step_weights(self.scheduler, self.timesteps, eta=self.eta, stop_at=stop_at)
        return equalising_factors(weights, mean_weight(self.weights))

    @property
    def levels(self) -> StepLevels:
        """The noise levels of the steps."""
        if self._levels is None:
            self._levels = StepLevels(self.scheduler, self.timesteps)
        return self._levels

    @property
    def weights(self) -> list[float]:
        """What the steps' predictions weigh in the clean latents, T of them."""
        if self._weights is None:
            self._weights = step_weights(self.scheduler, self.timesteps, eta=self.eta)
        return self._weights

    @torch.no_grad()
    def kept(self, positions: Collection[int]) -> KeptRollout:
        """Run it without gradient, and keep the latents before these positions.

        Raises:
            ValueError: a position outside the steps, or a scheduler from which no jump to the clean latents is known.
        """
        check_jump(self.scheduler)
        # both are read off a scheduler that has taken no step yet
        _ = self.levels, self.weights
        before, latents = {}, self.initial_latents
        for position, step in enumerate(self.steps(GradientSteps(frozenset(positions)))):
            if position in positions:
                before[position] = latents
            latents = step.latents
        return KeptRollout(before, latents)

    def predict_at(self, latents: torch.Tensor, position: int) -> torch.Tensor:
        """The guided prediction ``(B, C, h, w)`` on latents as they are before the step at ``position``."""
        read, given = self.levels.read(latents, position), self.conditioning
        if self.negative is not None:
            given = guided_conditioning(given, self.negative)
        return guided_prediction(self.denoiser, read, self.timesteps[position], given, self.guidance_scale, self.guide)

    def more_noise(self) -> torch.Tensor:
        """Standard normal ``(B, C, h, w)`` of the samples' seeds, after what the run's own steps took of it."""
        shape = self.initial_latents.shape[1:]
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in self.generators])
        return noise.to(self.initial_latents)

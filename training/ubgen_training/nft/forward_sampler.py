"""The sampler as the forward process sees it: finished latents, and predictions on them with noise of any step.

Both are one ``forward``, so that DistributedDataParallel and FSDP see one call.
Shapes: B samples or pairs, C x h x w latents, H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ubgen_pipeline.latent_denoising import check_jump

from ..sampler.gradient_steps import GradientSteps
from ..sampler.sampler_model import SamplerModel
from ..sampler.step_levels import StepLevels


@dataclass(frozen=True)
class Finished:
    """``images (B, 3, H, W)`` and the ``latents (B, C, h, w)`` that they were decoded from."""

    images: torch.Tensor
    latents: torch.Tensor


@dataclass(frozen=True)
class Noised:
    """``clean`` latents with ``noise``, both ``(B, C, h, w)``, of the steps at ``index (B,)``."""

    clean: torch.Tensor
    noise: torch.Tensor
    index: torch.Tensor


class ForwardSampler(SamplerModel):
    """A :class:`SamplerModel` that predicts on finished samples.

    Args:
        arguments: those of :class:`SamplerModel`.

    Raises:
        ValueError: a scheduler whose noise levels are not known.
    """

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        timesteps = self.pipeline.timesteps(self.sampling.num_inference_steps, self.latent_shape)
        try:
            check_jump(self.pipeline.scheduler)
        except ValueError as error:
            raise ValueError(
                f"the model's scheduler is {type(self.pipeline.scheduler).__name__}, and how it puts noise on finished"
                " samples, from which the forward process learns, is not known; train it with train_ubgen.py, or give"
                " another model or scheduler."
            ) from error
        self.levels = StepLevels(self.pipeline.scheduler, timesteps.cpu())

    def forward(
        self,
        labels: torch.Tensor,
        seeds: Sequence[int] = (),
        gradient_steps: GradientSteps | None = None,
        *,
        record: bool = False,
        noised: Noised | None = None,
        with_reference: bool = False,
    ) -> Any:
        """Images ``(B, 3, H, W)``, as the base; or :class:`Finished` samples; or predictions.

        Args:
            labels, seeds, gradient_steps: as in the base.
            record: give :class:`Finished` samples instead of images.
            noised: what to predict on: give ``(prediction (B, C, h, w), reference or None)``, both without guidance.
                ``seeds`` are not read.
            with_reference: give that ``reference``, of the reference model.
        """
        if noised is not None:
            return self._predictions(labels, noised, with_reference)
        if not record:
            return super().forward(labels, seeds, gradient_steps)
        latents = self.rollout(labels, seeds).latents()
        return Finished(self.decode(latents), latents)

    def _predictions(
        self, labels: torch.Tensor, noised: Noised, with_reference: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        conditioning, _ = self.conditioning_of(labels)
        read = self.levels.read(self.levels.noised(noised.clean, noised.noise, noised.index), noised.index)
        timesteps = self.levels.timesteps[noised.index.cpu()].to(read.device)
        reference = None
        if with_reference:
            with torch.no_grad(), self.reference_model():
                reference = self.predict(read, timesteps, conditioning)
        return self.predict(read, timesteps, conditioning), reference

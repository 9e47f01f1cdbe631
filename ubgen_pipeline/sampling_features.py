"""What takes part in the sampling of a call's batches: a protocol of four methods, and the small features.

Source images (``source_images.py``) and annotations from attention (``annotations.py``) are features too. The call
makes each object once and walks through its batches one after another, so an object may keep a batch's state between
``start`` and ``finish``.

Shapes: B samples, C x h x w latents, H x W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from .call_arguments import SampleBatch, check_counts
from .deep_features import DeepFeatureDenoiser
from .latent_denoising import Denoiser, DenoisingStep


@dataclass(frozen=True)
class Walk:
    """How a batch goes from noise to clean latents.

    Attributes:
        denoiser: as the loop takes it.
        latents: ``(B, C, h, w)`` to start from, with the noise of the first timestep.
        timesteps: ``(T,)``.
        num_guided_steps: steps from the first on that are guided; None: all.
    """

    denoiser: Denoiser
    latents: torch.Tensor
    timesteps: torch.Tensor
    num_guided_steps: int | None = None


@dataclass(frozen=True)
class FinishedBatch:
    """A batch after its last step.

    Attributes:
        images: ``(B, 3, H, W)`` in [0, 1]; or the latents ``(B, C, h, w)``, where those are asked for.
        is_decoded: whether they are images.
        flagged: B, which images the safety checker blackened; empty where nothing was checked.
        annotations: B ``SampleAnnotation``; empty where none are asked for.
    """

    images: torch.Tensor
    is_decoded: bool
    flagged: list[bool] = field(default_factory=list)
    annotations: list[Any] = field(default_factory=list)


class SamplingFeature:
    """Takes part in sampling. Each method here leaves everything as it is; a feature gives those that it needs."""

    def start(self, pipeline: Any, batch: SampleBatch, walk: Walk) -> Walk:
        """Before the first step: the walk to go, this one or another."""
        return walk

    def after_step(self, pipeline: Any, step: DenoisingStep) -> None:
        """After every step; may write into ``step.latents``."""

    def stop(self) -> None:
        """When the walk ends, by an error too, and even where ``start`` was not reached."""

    def finish(self, pipeline: Any, finished: FinishedBatch) -> FinishedBatch:
        """When the images are there: what becomes of them."""
        return finished


@dataclass(frozen=True)
class Shortcuts(SamplingFeature):
    """What is faster and gives other images.

    Attributes:
        guidance_until: share of the steps, from the first on, that are guided.
        deep_features_every: the denoiser's deep layers run at every n-th step only; 1: always.

    Raises:
        ValueError: a value out of range.
    """

    guidance_until: float = 1.0
    deep_features_every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.guidance_until <= 1:
            raise ValueError(f"guidance_until is {self.guidance_until}; give a share of the steps, from 0 to 1.")
        check_counts(deep_features_every=self.deep_features_every)

    def check_beside(self, *, annotations: bool, attention_kwargs: bool) -> None:
        """Raise ``ValueError`` where a shortcut would spoil what else is asked for."""
        if self.deep_features_every > 1 and annotations:
            raise ValueError(
                f"deep_features_every is {self.deep_features_every}, and annotations need the attention of every step;"
                " give 1, or annotate the finished dataset with `ubgen annotate`."
            )
        if self.deep_features_every > 1 and attention_kwargs:
            raise ValueError(
                f"deep_features_every is {self.deep_features_every}, which takes no cross_attention_kwargs; give 1, or"
                " leave them out."
            )

    def start(self, pipeline: Any, batch: SampleBatch, walk: Walk) -> Walk:
        walk = replace(walk, num_guided_steps=round(self.guidance_until * len(walk.timesteps)))
        if self.deep_features_every == 1:
            return walk
        deep = DeepFeatureDenoiser(pipeline.denoiser_network, self.deep_features_every)
        return replace(walk, denoiser=partial(pipeline.predict, network=deep))


@dataclass(frozen=True)
class StepCallback(SamplingFeature):
    """Calls ``callback(pipeline, step, timestep, {"latents": latents})`` after every step, as diffusers does.

    ``latents`` in the dict that it returns replace the current ones.
    """

    callback: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None]

    def after_step(self, pipeline: Any, step: DenoisingStep) -> None:
        returned = self.callback(pipeline, step.index, step.timestep, {"latents": step.latents}) or {}
        if returned.get("latents", step.latents) is not step.latents:
            step.latents.copy_(returned["latents"])


class SafetyCheck(SamplingFeature):
    """Blackens what the model's own safety checker, if it has one, flags."""

    def finish(self, pipeline: Any, finished: FinishedBatch) -> FinishedBatch:
        if not finished.is_decoded:
            return finished
        images, flagged = pipeline.blacken_flagged(finished.images)
        return replace(finished, images=images, flagged=flagged)

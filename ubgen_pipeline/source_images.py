"""Starting from an image instead of noise: image-to-image, and inpainting of a region.

Shapes: B samples, C x h x w latents, H x W pixels.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from .call_arguments import SampleBatch
from .latent_denoising import DenoisingStep
from .sampling_features import FinishedBatch, SamplingFeature, Walk
from .scheduler_noise import noised_latents


class SourceImages(SamplingFeature):
    """Starts each sample from an image of its own, and keeps what of it is not to be drawn anew.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
        regions: ``(N, H, W)`` bool, what is to be drawn anew; None: everything.
        strength: share of the steps that an image goes through, in (0, 1].
    """

    def __init__(self, images: torch.Tensor, regions: torch.Tensor | None = None, strength: float = 0.8):
        self._images, self._regions, self._strength = images, regions, strength
        self._source: EncodedSource | None = None
        self._timesteps = torch.empty(0)

    def start(self, pipeline: Any, batch: SampleBatch, walk: Walk) -> Walk:
        regions = None if self._regions is None else self._regions[batch.rows]
        self._source = encoded_source(pipeline, self._images[batch.rows], batch.noise, regions)
        self._timesteps = remaining_timesteps(pipeline.scheduler, self._strength)
        latents = self._source.at(pipeline.scheduler, self._timesteps[0]).to(walk.latents.dtype)
        return replace(walk, latents=latents, timesteps=self._timesteps)

    def after_step(self, pipeline: Any, step: DenoisingStep) -> None:
        assert self._source is not None
        is_last = step.index + 1 == len(self._timesteps)
        self._source.put_back(step.latents, pipeline.scheduler, None if is_last else self._timesteps[step.index + 1])

    def finish(self, pipeline: Any, finished: FinishedBatch) -> FinishedBatch:
        assert self._source is not None
        if not finished.is_decoded:
            return finished
        return replace(finished, images=self._source.put_back_pixels(finished.images))


@dataclass(frozen=True)
class EncodedSource:
    """The images that a batch starts from.

    Attributes:
        pixels: ``(B, 3, H, W)`` in [0, 1].
        latents: ``(B, C, h, w)``, theirs, scaled.
        noise: ``(B, C, h, w)`` standard normal, each sample's own.
        region: ``(B, 1, H, W)`` bool, what is to be drawn anew; None: everything.
    """

    pixels: torch.Tensor
    latents: torch.Tensor
    noise: torch.Tensor
    region: torch.Tensor | None

    def at(self, scheduler: Any, timestep: torch.Tensor) -> torch.Tensor:
        """The source's latents ``(B, C, h, w)`` with the noise of ``timestep ()``."""
        return noised_latents(scheduler, self.latents, self.noise, timestep)

    def put_back(self, latents: torch.Tensor, scheduler: Any, next_timestep: torch.Tensor | None) -> None:
        """Overwrite, in place, what is not to be drawn anew with the source as it is at ``next_timestep``, or clean.

        A latent that covers any pixel of the region is drawn anew, since pixels are put back, too.
        """
        if self.region is None:
            return
        source = self.latents if next_timestep is None else self.at(scheduler, next_timestep)
        drawn = functional.adaptive_max_pool2d(self.region.to(latents.dtype), latents.shape[-2:])
        latents.copy_(torch.where(drawn > 0, latents, source.to(latents.dtype)))

    def put_back_pixels(self, images: torch.Tensor) -> torch.Tensor:
        """``images (B, 3, H, W)`` with the source's own pixels outside the region."""
        return images if self.region is None else torch.where(self.region, images, self.pixels.to(images.dtype))


def encoded_source(
    pipeline: Any, images: torch.Tensor, noise: torch.Tensor, regions: torch.Tensor | None
) -> EncodedSource:
    """The source of a batch on the pipeline's device.

    Args:
        pipeline: a ``UbGenPipeline``.
        images: ``(B, 3, H, W)`` in [0, 1].
        noise: ``(B, C, h, w)``.
        regions: ``(B, H, W)`` bool.
    """
    device = pipeline._execution_device
    images = images.to(device)
    latents = pipeline.encode_images(images).to(pipeline.denoiser_network.dtype)
    region = None if regions is None else regions.to(device)[:, None]
    return EncodedSource(images, latents, noise.to(device, latents.dtype), region)


def remaining_timesteps(scheduler: Any, strength: float) -> torch.Tensor:
    """The last ``strength`` of the scheduler's timesteps, counted as diffusers' image-to-image pipelines do.

    ``set_timesteps`` must have run. A scheduler that counts its steps is told where it begins.

    Args:
        strength: in (0, 1]; 1 walks all of them and keeps next to nothing of the image.
    """
    # some schedulers walk more timesteps than were asked for; diffusers counts those asked for
    num_steps = scheduler.num_inference_steps
    first = num_steps - max(1, min(int(num_steps * strength), num_steps))
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return scheduler.timesteps[first:]


def check_source(
    images: torch.Tensor | None, regions: torch.Tensor | None, strength: float, num_samples: int, size: tuple[int, int]
) -> None:
    """Hold the arguments of a call against each other.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
        regions: ``(N, H, W)`` bool.
        strength: in (0, 1].
        num_samples: N.
        size: (H, W) of the images to be drawn.

    Raises:
        ValueError: a region without images, another shape, a range outside [0, 1], or nothing to draw anew.
    """
    if images is None:
        if regions is not None:
            raise ValueError("regions is given without source_images; give the images that the regions lie in.")
        return
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}; choose above 0, up to 1.")
    if tuple(images.shape) != (num_samples, 3, *size) or not images.is_floating_point():
        raise ValueError(
            f"source_images has shape {tuple(images.shape)} and type {images.dtype}; give {(num_samples, 3, *size)},"
            " floating point, or other height and width."
        )
    if not 0 <= images.min() <= images.max() <= 1:
        raise ValueError(
            f"source_images ranges from {images.min():.3g} to {images.max():.3g}; give values from 0 to 1."
        )
    if regions is None:
        return
    if tuple(regions.shape) != (num_samples, *size) or regions.dtype != torch.bool:
        raise ValueError(
            f"regions has shape {tuple(regions.shape)} and type {regions.dtype}; give {(num_samples, *size)}, bool."
        )
    if empty := [number for number, region in enumerate(regions) if not region.any()]:
        raise ValueError(f"regions is empty for sample {empty[0]}; mark what is to be drawn anew, or leave it out.")

"""A denoiser in training on labelled images: what every loss in latent space shares.

The VAE and the prompts' features are frozen and stay out of the state dict.
Shapes: B samples, N prompts, H x W pixels, C x h x w latents, T timesteps.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.family import Family
from ubgen_pipeline.inference.prompt_cache import PromptCache

from ..checkpoints.library_internals import ModuleWithFrozenParts


class LatentModel(ModuleWithFrozenParts):
    """The denoiser of a pipeline, images as latents, and the features of N prompts and of the empty one, the last.

    A subclass makes ``denoiser_network`` ready for training, as :mod:`ubgen_training.lora.adapter` does. Its forward
    takes ``pixels (B, 3, H, W)`` in [-1, 1], ``labels (B,)`` and a generator on the CPU, and gives the loss ``(B,)``.

    Args:
        pipeline: its denoiser is trained.
        prompts: N prompts, in label order; encoded once and alone, here.
        prompt_cache: encodes them; None: one that keeps nothing on the disk.
    """

    train_method: str

    def __init__(self, pipeline: Family, prompts: Sequence[str], prompt_cache: PromptCache | None = None):
        super().__init__()
        # transformers' Trainer reads a config off its model
        self.config = PretrainedConfig()
        self.pipeline: Any = pipeline
        for network in (pipeline.vae, *pipeline.text_networks.values()):
            network.requires_grad_(False)
        with torch.no_grad():
            cache = prompt_cache or PromptCache()
            rows = [*cache.rows(pipeline, prompts), *cache.rows(pipeline, [""], negative=True)]
            conditioning, _ = pipeline.with_guidance(pipeline.batch(rows), pipeline.default_guidance_scale)
        self.conditioning = conditioning.floats(lambda value: value.float())
        self.denoiser_network = pipeline.denoiser_network

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scaled latents ``(B, C, h, w)`` in float32; nothing random takes part."""
        return self.pipeline.encode_images(pixels * 0.5 + 0.5).float()

    def predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The denoiser's prediction ``(B, C, h, w)`` at ``latents (B, C, h, w)`` and ``timesteps (B,)``, of B rows."""
        return self.pipeline.predict(latents, timesteps, conditioning)

    def conditioning_of(self, rows: torch.Tensor, like: torch.Tensor) -> Conditioning:
        """The prompts at ``rows (B,)``, on the device of ``like``; the last one is the empty prompt."""
        return self.conditioning.rows(rows.tolist()).map(lambda value: value.to(like.device))

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute the denoiser's activations in the backward pass; ``transformers`` calls it, by either name."""
        self.denoiser_network.enable_gradient_checkpointing()

    gradient_checkpointing_enable = activation_checkpointing_enable

    def frozen_parts(self) -> Iterable[nn.Module]:
        """The VAE: prompts are encoded once, before any move."""
        return (self.pipeline.vae,)


def stratified(batch: int, num_values: int, generator: torch.Generator) -> torch.Tensor:
    """Whole numbers ``(B,)`` in [0, ``num_values``), one from each B-th part, which varies less than chance."""
    strata = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    # in float32 B - 1 + u rounds up to B now and then
    return (strata * num_values).long().clamp_max(num_values - 1)


def training_schedule(scheduler: Any) -> torch.Tensor:
    """The scheduler's ᾱ ``(T,)`` on the CPU, exactly 0 at the end of a schedule with zero terminal SNR.

    DPM-Solver's and UniPC's schedulers keep 2**-24 there, by which their solvers can divide. A weight of 1/SNR or
    1/sqrt(SNR) would then be huge but finite, and nothing would tell of it.
    """
    alphas_cumprod = scheduler.alphas_cumprod.cpu().clone()
    if scheduler.config.get("rescale_betas_zero_snr", False):
        alphas_cumprod[-1] = 0
    return alphas_cumprod

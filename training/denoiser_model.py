"""The model that denoising training trains: images and prompts in, loss out, the UNet inside.

One forward is one UNet call, so that any launcher wraps it. The VAE and the prompts' features are frozen and stay out
of the state dict.
Shapes: B samples, N prompts, L tokens, D text width, H x W pixels, h x w latents, T timesteps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch import nn
from transformers import PretrainedConfig

from ubgen_pipeline.pipeline import UbGenPipeline

from .denoising_loss import PREDICTION_TYPES, DenoisingLoss, target_of
from .sampler_model import LoraSettings


class DenoiserModel(nn.Module):
    """A UNet in training.

    Args:
        pipeline: its UNet is trained; that of ``scratch`` is a new one of the same layout.
        prompts: N prompts, in label order; encoded once, here, with the empty one.
        train_method: ``lora``, ``full`` or ``scratch``.
        weighting: see :mod:`ubgen_training.denoising_loss`.
        target: ``noise``, ``x0`` or ``velocity``; None takes the model's own. Another one than the model's makes sense
            from scratch only.
        lora: of ``train_method`` ``lora``.
        empty_prompt_share: share of samples shown with the empty prompt.
        seed: of the LoRA's, or of the new UNet's, initial weights.

    Raises:
        ValueError: a target that the model was not trained for, or a weighting that is infinite on it, as at zero
            terminal SNR.
    """

    def __init__(
        self,
        pipeline: UbGenPipeline,
        prompts: Sequence[str],
        *,
        train_method: str = "lora",
        weighting: str = "debias",
        target: str | None = None,
        lora: LoraSettings | None = None,
        empty_prompt_share: float = 0.1,
        seed: int = 0,
    ):
        super().__init__()
        own_target = target_of(pipeline.scheduler.config.prediction_type)
        target = target or own_target
        if target != own_target and train_method != "scratch":
            raise ValueError(
                f"target is {target!r}, but the model predicts {own_target!r}; leave it out, or train from scratch."
            )
        # transformers' Trainer reads a config off its model
        self.config = PretrainedConfig()
        self.pipeline = pipeline
        self.train_method = train_method
        self.loss = DenoisingLoss(training_schedule(pipeline.scheduler), weighting, target)
        self.empty_prompt_share = empty_prompt_share
        pipeline.vae.requires_grad_(False)
        pipeline.text_encoder.requires_grad_(False)
        with torch.no_grad():
            self.prompt_embeds = pipeline.encode_prompts([*prompts, ""]).float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if train_method == "scratch":
                pipeline.register_modules(unet=UNet2DConditionModel.from_config(pipeline.unet.config))
                pipeline.register_modules(
                    scheduler=type(pipeline.scheduler).from_config(
                        pipeline.scheduler.config, prediction_type=PREDICTION_TYPES[target]
                    )
                )
            self.unet = pipeline.unet.requires_grad_(train_method != "lora")
            if train_method == "lora":
                self._add_lora(lora or LoraSettings())
        # the base may be 16-bit; updates at these learning rates would vanish in 16-bit weights
        cast_training_params(self.unet, torch.float32)

    def _add_lora(self, lora: LoraSettings) -> None:
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.rank if lora.alpha is None else lora.alpha,
            init_lora_weights="gaussian",
            target_modules=list(lora.target_modules),
        )
        self.unet.add_adapter(config)

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Loss ``(B,)`` of ``pixels (B, 3, H, W)`` in [-1, 1] with the prompts of ``labels (B,)``.

        Args:
            generator: on the CPU; gives noise, timesteps and which prompts are left empty.
        """
        latents = self.encode(pixels)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        batch, num_timesteps = len(latents), len(self.loss.alphas_cumprod)
        # stratified over the batch: lower variance than independent draws
        strata = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        timesteps = (strata * num_timesteps).long().to(latents.device)
        is_empty = torch.rand(batch, generator=generator) < self.empty_prompt_share
        rows = torch.where(is_empty, len(self.prompt_embeds) - 1, labels.cpu())
        prompt_embeds = self.prompt_embeds.cpu()[rows].to(latents)
        noisy = self.loss.add_noise(latents, noise, timesteps)
        prediction = self.unet(noisy, timesteps, prompt_embeds).sample
        return self.loss(prediction, latents, noise, timesteps)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scaled latents ``(B, 4, h, w)`` in float32; the mode, so that nothing random takes part."""
        vae = self.pipeline.vae
        moments = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        return moments.mode().float() * vae.config.scaling_factor

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute the UNet's activations in the backward pass; ``transformers`` calls it, by either name."""
        self.unet.enable_gradient_checkpointing()

    gradient_checkpointing_enable = activation_checkpointing_enable

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "DenoiserModel":
        # a move of the model moves its frozen part too, which torch does not know of
        super()._apply(fn, recurse)
        self.pipeline.vae._apply(fn)
        return self


def training_schedule(scheduler: Any) -> torch.Tensor:
    """The scheduler's ᾱ ``(T,)`` on the CPU, exactly 0 at the end of a schedule with zero terminal SNR.

    DPM-Solver's and UniPC's schedulers keep 2**-24 there, by which their solvers can divide. A weight of 1/SNR or
    1/sqrt(SNR) would then be huge but finite, and nothing would tell of it.
    """
    alphas_cumprod = scheduler.alphas_cumprod.cpu().clone()
    if scheduler.config.get("rescale_betas_zero_snr", False):
        alphas_cumprod[-1] = 0
    return alphas_cumprod

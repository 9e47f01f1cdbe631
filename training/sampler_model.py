"""The model that the trainer trains: class labels and seeds in, differentiable images out.

One forward is a whole rollout, so that DistributedDataParallel sees one call per step. Only the LoRA-adapted UNet is
a registered module; the VAE and the text features are frozen and stay out of the state dict.
Shapes: B samples, N classes, L tokens, D text width, H x W pixels.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch import nn
from transformers import PretrainedConfig

from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_pipeline.pipeline import UbGenPipeline


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on the UNet's attention; the defaults are the paper's (Table 5). ``alpha`` None means equal to ``rank``."""

    rank: int = 128
    alpha: float | None = None
    target_modules: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class SamplingSettings:
    """How training samples are drawn; sizes are in pixels, None takes the model's own."""

    num_inference_steps: int = 50
    guidance_scale: float = 2.0
    height: int | None = None
    width: int | None = None


class SamplerModel(nn.Module):
    """A sampler with a trainable LoRA.

    Args:
        pipeline: with the scheduler to train under already set; its UNet gets the adapter.
        prompts: N prompts, in label order; encoded once, here.
        lora: see :class:`LoraSettings`.
        sampling: see :class:`SamplingSettings`.
        seed: of the LoRA's initial weights.

    Raises:
        ValueError: a rank below 1, or target modules the UNet does not have.
    """

    def __init__(
        self,
        pipeline: UbGenPipeline,
        prompts: Sequence[str],
        lora: LoraSettings | None = None,
        sampling: SamplingSettings | None = None,
        *,
        seed: int = 0,
    ):
        super().__init__()
        lora, self.sampling = lora or LoraSettings(), sampling or SamplingSettings()
        if lora.rank < 1:
            raise ValueError(f"lora_rank is {lora.rank}; choose 1 or more.")
        # transformers' Trainer reads a config off its model
        self.config = PretrainedConfig()
        self.pipeline = pipeline
        self.latent_shape = pipeline.latent_shape(self.sampling.height, self.sampling.width)
        with torch.no_grad():
            self.prompt_embeds = pipeline.encode_prompts(prompts)
            self.negative_prompt_embeds = pipeline.encode_prompts([""])
        pipeline.vae.requires_grad_(False)
        pipeline.text_encoder.requires_grad_(False)
        self.unet = pipeline.unet.requires_grad_(False)
        lora_config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.rank if lora.alpha is None else lora.alpha,
            init_lora_weights="gaussian",
            target_modules=list(lora.target_modules),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.unet.add_adapter(lora_config)
        # the base may be 16-bit; updates at these learning rates would vanish in a 16-bit LoRA
        cast_training_params(self.unet, torch.float32)

    def forward(
        self, labels: torch.Tensor, seeds: Sequence[int], gradient_steps: Collection[int] | None = None
    ) -> torch.Tensor:
        """Images ``(B, 3, H, W)`` float32, nominally in [0, 1] and not clamped.

        Args:
            labels: ``(B,)`` positions in the prompts.
            seeds: B integers in [0, 2**63): the noise, initial and of every step.
            gradient_steps: positions of the steps whose UNet calls carry gradient; None is all of them.
        """
        scheduler, device = self.pipeline.scheduler, self.unet.device
        scheduler.set_timesteps(self.sampling.num_inference_steps, device=device)
        labels = labels.to(self.prompt_embeds.device)
        latents = draw_latents(seeds, self.latent_shape).to(device) * scheduler.init_noise_sigma
        steps = denoising_steps(
            self.pipeline.denoiser,
            scheduler,
            latents,
            self.prompt_embeds[labels],
            negative_prompt_embeds=self.negative_prompt_embeds.expand(len(labels), -1, -1),
            guidance_scale=self.sampling.guidance_scale,
            generators=step_generators(seeds),
            gradient_steps=gradient_steps,
        )
        for step in steps:
            latents = step.latents
        return self.pipeline.decode_latents(latents).float()

    def activation_checkpointing_enable(self, **_: Any) -> None:
        """Recompute UNet and VAE activations in the backward pass instead of keeping them; options are not used."""
        self.unet.enable_gradient_checkpointing()
        self.pipeline.vae.enable_gradient_checkpointing()

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """The older name of :meth:`activation_checkpointing_enable`."""
        self.activation_checkpointing_enable(**kwargs)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "SamplerModel":
        super()._apply(fn, recurse)
        self.pipeline.vae._apply(fn)
        self.pipeline.text_encoder._apply(fn)
        self.prompt_embeds = fn(self.prompt_embeds)
        self.negative_prompt_embeds = fn(self.negative_prompt_embeds)
        return self

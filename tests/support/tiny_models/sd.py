"""A tiny Stable Diffusion: images of 16 x 16 pixels from 8 x 8 latents, for trainings whose images mean nothing."""

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from .parts import clip, kl_autoencoder


def build(seed: int = 0) -> StableDiffusionPipeline:
    """Equal seeds give equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder, tokenizer = clip(16, projected=False, length=16)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            layers_per_block=1,
            norm_num_groups=4,
        )
        vae = kl_autoencoder(4)
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        # velocities, as the mini model predicts
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            prediction_type="v_prediction",
        ),
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )

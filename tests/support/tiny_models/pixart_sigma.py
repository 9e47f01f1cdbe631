"""A tiny PixArt-Sigma."""

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

from .parts import kl_autoencoder, t5

# of the stock call: draw the size asked for, and leave prompts as they are
STOCK = {"use_resolution_binning": False, "clean_caption": False}


def build(*, num_layers: int = 2, num_heads: int = 3, text_width: int = 32, seed: int = 0) -> PixArtSigmaPipeline:
    """Random weights; 2 pixels a latent, and patches of 2 x 2 latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder, tokenizer = t5(text_width, 300)
        transformer = PixArtTransformer2DModel(
            sample_size=16,
            num_layers=num_layers,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=num_heads,
            caption_channels=text_width,
            cross_attention_dim=8 * num_heads,
            in_channels=4,
            out_channels=8,
            use_additional_conditions=False,
        )
        vae = kl_autoencoder(4, scaling_factor=0.13025)
    return PixArtSigmaPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02),
    )

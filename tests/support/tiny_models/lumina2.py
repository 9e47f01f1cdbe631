"""A tiny Lumina 2."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

from .gemma import gemma2
from .parts import kl_autoencoder


def build(*, num_layers: int = 2, num_heads: int = 3, text_width: int = 8, seed: int = 0) -> Lumina2Pipeline:
    """Random weights; 8 pixels a latent, which its pipeline takes for granted, and patches of 2 x 2 latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder, tokenizer = gemma2(text_width, num_layers=2)
        transformer = Lumina2Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=4,
            hidden_size=8 * num_heads,
            num_layers=num_layers,
            num_refiner_layers=1,
            num_attention_heads=num_heads,
            num_kv_heads=1,
            multiple_of=16,
            scaling_factor=1.0,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(512, 64, 64),
            cap_feat_dim=text_width,
        )
        vae = kl_autoencoder(
            4,
            num_levels=4,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    return Lumina2Pipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    )

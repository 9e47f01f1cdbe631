"""A tiny Chroma."""

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

from .parts import kl_autoencoder, t5

# its call takes latents packed into tokens
IS_PACKED = True


def build(
    *, num_layers: int = 2, num_single_layers: int = 1, num_heads: int = 2, text_width: int = 16, seed: int = 0
) -> ChromaPipeline:
    """Random weights; 2 pixels a latent, and 2 x 2 latents a token."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder, tokenizer = t5(text_width)
        transformer = ChromaTransformer2DModel(
            in_channels=16,
            num_layers=num_layers,
            num_single_layers=num_single_layers,
            attention_head_dim=16,
            num_attention_heads=num_heads,
            joint_attention_dim=text_width,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        )
        # what scales and shifts each block starts next to zero
        torch.nn.init.normal_(transformer.distilled_guidance_layer.out_proj.weight, std=0.3)
        vae = kl_autoencoder(
            4, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
        )
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )

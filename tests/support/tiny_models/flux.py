"""A tiny FLUX.1: latents of 4 channels, one for 2 x 2 pixels, packed 2 x 2 into tokens of 16."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from .parts import clip, kl_autoencoder, t5

# its call takes latents packed into tokens
IS_PACKED = True
KINDS = {"": {}, "schnell": {"guidance_embeds": False}}


def build(
    *,
    guidance_embeds: bool = True,
    num_layers: int = 2,
    num_single_layers: int = 2,
    dynamic_shifting: bool | None = None,
    seed: int = 0,
) -> FluxPipeline:
    """Equal arguments give equal weights.

    Args:
        guidance_embeds: True as dev has it, False as schnell.
        num_layers: blocks with weights of their own for text and image.
        num_single_layers: blocks with the same weights for both.
        dynamic_shifting: timesteps that depend on the image's size; None: those of dev do.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        (text_encoder, tokenizer), (text_encoder_2, tokenizer_2) = clip(16, projected=False), t5(32)
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=num_layers,
            num_single_layers=num_single_layers,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance_embeds,
        )
        vae = kl_autoencoder(
            4, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
        )
    for network in (text_encoder, text_encoder_2, transformer, vae):
        network.eval()
    is_shifted = guidance_embeds if dynamic_shifting is None else dynamic_shifting
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if is_shifted else 1.0, use_dynamic_shifting=is_shifted),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )

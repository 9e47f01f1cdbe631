"""A tiny Stable Diffusion 3: images of 32 x 32 pixels from 16 x 16 latents, in patches of 2 x 2."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

from .parts import clip, kl_autoencoder, t5

KINDS = {"": {}, "without T5": {"with_t5": False, "dynamic_shifting": True}}


def build(
    *,
    with_t5: bool = True,
    num_layers: int = 3,
    dual_attention_layers: tuple[int, ...] = (0,),
    dynamic_shifting: bool = False,
    seed: int = 0,
) -> StableDiffusion3Pipeline:
    """Equal arguments give equal weights.

    Args:
        with_t5: False leaves the third text encoder out, as users do to save its memory.
        num_layers: joint blocks.
        dual_attention_layers: those with attention among image tokens beside the joint one, as in 3.5 medium.
        dynamic_shifting: timesteps that depend on the image's size.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        (text_encoder, tokenizer), (text_encoder_2, tokenizer_2) = clip(16, projected=True), clip(32, projected=True)
        text_encoder_3, tokenizer_3 = t5(64)
        transformer = SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=8,
            out_channels=8,
            num_layers=num_layers,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=64,
            pooled_projection_dim=16 + 32,
            pos_embed_max_size=16,
            qk_norm="rms_norm",
            dual_attention_layers=dual_attention_layers,
        )
        vae = kl_autoencoder(
            8, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False
        )
    for network in (text_encoder, text_encoder_2, text_encoder_3, transformer, vae):
        network.eval()
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic_shifting),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=text_encoder_3 if with_t5 else None,  # pyright: ignore[reportArgumentType]
        tokenizer_3=tokenizer_3 if with_t5 else None,  # pyright: ignore[reportArgumentType]
    )

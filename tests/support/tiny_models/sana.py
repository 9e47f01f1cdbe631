"""A tiny Sana."""

from typing import Any

import torch
from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

from .gemma import gemma2

# of the stock call: draw the size asked for, and leave prompts as they are
STOCK = {"use_resolution_binning": False, "clean_caption": False}


def build(**settings: Any) -> SanaPipeline:
    """Equal arguments give equal weights; see :func:`sana_components`."""
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return SanaPipeline(**sana_components(**settings), scheduler=scheduler)


def sana_components(
    *,
    num_layers: int = 2,
    head_dim: int = 8,
    text_width: int = 8,
    num_levels: int = 2,
    seed: int = 0,
    **transformer_settings: Any,
) -> dict[str, Any]:
    """All parts but the scheduler.

    Args:
        num_layers: blocks of the transformer.
        head_dim: of its two heads.
        text_width: of the text encoder.
        num_levels: of the autoencoder, ``2 ** (num_levels - 1)`` pixels a latent.
        seed: of the weights.
        transformer_settings: more of the transformer's configuration.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder, tokenizer = gemma2(text_width)
        transformer = SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=num_layers,
            num_attention_heads=2,
            attention_head_dim=head_dim,
            num_cross_attention_heads=2,
            cross_attention_head_dim=head_dim,
            cross_attention_dim=2 * head_dim,
            caption_channels=text_width,
            sample_size=16,
            **transformer_settings,
        )
        blocks = ("ResBlock",) * (num_levels - 1) + ("EfficientViTBlock",)
        widths, scales, depths = (8,) * num_levels, ((),) * (num_levels - 1) + ((5,),), (1,) * num_levels
        vae = AutoencoderDC(
            latent_channels=4,
            attention_head_dim=8,
            encoder_block_types=blocks,
            decoder_block_types=blocks,
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            encoder_qkv_multiscales=scales,
            decoder_qkv_multiscales=scales,
            encoder_layers_per_block=depths,
            decoder_layers_per_block=depths,
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        )
    return {"tokenizer": tokenizer, "text_encoder": text_encoder, "vae": vae.eval(), "transformer": transformer.eval()}

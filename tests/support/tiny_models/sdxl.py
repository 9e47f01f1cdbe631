"""A tiny Stable Diffusion XL: two CLIP text encoders, and a UNet of three levels, the first without attention."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}

KINDS = {
    "": {},
    "two levels": {"num_levels": 2, "force_zeros": False, "statistics": True},
    "turbo": {"kind": "turbo"},
    "lcm": {"kind": "lcm"},
}


def build(
    kind: str = "base", *, num_levels: int = 3, force_zeros: bool = True, statistics: bool = False, seed: int = 0
) -> StableDiffusionXLPipeline:
    """Equal arguments give equal weights.

    Args:
        kind: ``base``, ``turbo`` (trailing timesteps) or ``lcm`` (a UNet that reads the guidance scale).
        num_levels: of the UNet; the first one has no attention.
        force_zeros: an empty negative prompt is zeros.
        statistics: the VAE has a mean and a standard deviation of its latents, as in Playground 2.5.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = _clip(CLIPTextModel, 32), _clip(CLIPTextModelWithProjection, 24)
        unet = UNet2DConditionModel(
            sample_size=16,
            layers_per_block=1,
            block_out_channels=(8, 16, 16)[:num_levels],
            norm_num_groups=4,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * (num_levels - 1)),
            up_block_types=(*["CrossAttnUpBlock2D"] * (num_levels - 1), "UpBlock2D"),
            attention_head_dim=(2, 4, 4)[:num_levels],
            use_linear_projection=True,
            transformer_layers_per_block=(1, 1, 2)[:num_levels],
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=20 + 6 * 8,
            cross_attention_dim=32 + 24,
            time_cond_proj_dim=16 if kind == "lcm" else None,
        )
        vae = AutoencoderKL(
            block_out_channels=(4, 8),
            norm_num_groups=4,
            layers_per_block=1,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            sample_size=32,
            scaling_factor=0.13025,
            force_upcast=True,
            **({"latents_mean": [-1.6, 0.6, 2.1, -0.4], "latents_std": [8.4, 5.9, 3.7, 4.8]} if statistics else {}),
        )
    schedulers: dict[str, Any] = {
        "base": EulerDiscreteScheduler(timestep_spacing="leading", **NOISE),
        "turbo": EulerAncestralDiscreteScheduler(timestep_spacing="trailing", **NOISE),
        "lcm": LCMScheduler(clip_sample=False, beta_start=0.00085, beta_end=0.012),
    }
    for network in (first, second, unet, vae):
        network.eval()
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=unet,
        scheduler=schedulers[kind],
        force_zeros_for_empty_prompt=force_zeros,
        add_watermarker=False,
    )


def _tokenizer() -> CLIPTokenizer:
    """Every word of small letters has its letters as tokens."""
    tokens = (*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>")
    return CLIPTokenizer(vocab={token: row for row, token in enumerate(tokens)}, merges=[], model_max_length=77)


def _clip(kind: Any, width: int) -> Any:
    tokenizer = _tokenizer()
    encoder = kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=20,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=1,
        )
    )
    # at the usual spread of 0.02 a prompt would hardly change an image
    torch.nn.init.normal_(encoder.get_input_embeddings().weight)
    return encoder

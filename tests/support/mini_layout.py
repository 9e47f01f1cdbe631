"""The mini model's layout, narrower and with random weights: a model for tests that want no trained one."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ubgen_training.mini.autoencoder import LAYOUT, build_autoencoder
from ubgen_training.mini.denoiser import assemble_pipeline, build_text_encoder, build_unet
from ubgen_training.mini.tokenizer import build_tokenizer

# a third of the mini model's channels: hundreds of tests draw and train with it
UNET_WIDTHS, AUTOENCODER_WIDTHS = (32, 64), (12, 24, 24)


def build_random_mini_pipeline(
    folder: Path | str, seed: int = 0, *, full_width: bool = False, latent_size: int = 16
) -> str:
    """Save a float32 safetensors ``StableDiffusionPipeline`` under ``folder``; equal seeds give equal weights.

    With ``full_width`` it has all of the mini model's channels, which learns more in a few updates. It draws
    ``latent_size`` squared latents unless told otherwise, four pixels wide each.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer()
        text_encoder = build_text_encoder(tokenizer)
        # transformers starts these at std 0.02, so weak that prompts would hardly change an image
        torch.nn.init.normal_(text_encoder.get_input_embeddings().weight)
        if full_width:
            autoencoder, unet = build_autoencoder(), build_unet()
        else:
            autoencoder = AutoencoderKL(**{**LAYOUT, "block_out_channels": AUTOENCODER_WIDTHS})
            unet = UNet2DConditionModel.from_config({**build_unet().config, "block_out_channels": UNET_WIDTHS})
        unet.register_to_config(sample_size=latent_size)
        pipeline = assemble_pipeline(autoencoder.eval(), unet.eval(), text_encoder.eval(), tokenizer)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return str(folder)

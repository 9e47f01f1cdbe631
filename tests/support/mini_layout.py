"""The mini model's layout with random weights, for tests of code that must run before or without the trained one."""

from pathlib import Path

import torch

from ubgen_training.mini.autoencoder import build_autoencoder
from ubgen_training.mini.denoiser import assemble_pipeline, build_text_encoder, build_unet
from ubgen_training.mini.tokenizer import build_tokenizer


def build_random_mini_pipeline(folder: Path | str, seed: int = 0) -> str:
    """Save a float32 safetensors ``StableDiffusionPipeline`` under ``folder``; equal seeds give equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer()
        text_encoder = build_text_encoder(tokenizer)
        # transformers starts these at std 0.02, so weak that prompts would hardly change an image
        torch.nn.init.normal_(text_encoder.get_input_embeddings().weight)
        pipeline = assemble_pipeline(build_autoencoder().eval(), build_unet().eval(), text_encoder.eval(), tokenizer)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return str(folder)

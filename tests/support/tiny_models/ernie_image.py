"""A tiny ERNIE-Image."""

import torch
import transformers
from diffusers import ErnieImagePipeline, ErnieImageTransformer2DModel

from .flux2 import build as build_flux2


def build(*, num_layers: int = 2, text_width: int = 16) -> ErnieImagePipeline:
    """Random weights; the autoencoder, the tokenizer and the text encoder are those of FLUX.2-dev."""
    parts = build_flux2("dev", text_width=text_width).components
    tokenizer = parts["tokenizer"].tokenizer
    tokenizer.model_max_length = 512
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder = transformers.Mistral3Model(parts["text_encoder"].config)
        torch.nn.init.normal_(text_encoder.get_input_embeddings().weight)
        transformer = ErnieImageTransformer2DModel(
            hidden_size=32,
            num_attention_heads=2,
            num_layers=num_layers,
            ffn_hidden_size=48,
            in_channels=16,
            out_channels=16,
            text_in_dim=text_width,
            rope_axes_dim=(4, 6, 6),
        )
        # these start at zero
        for layer in (transformer.adaLN_modulation[-1], transformer.final_linear):
            torch.nn.init.normal_(layer.weight, std=0.1)
    return ErnieImagePipeline(
        transformer=transformer.eval(),
        vae=parts["vae"],
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        scheduler=type(parts["scheduler"])(shift=4.0),
    )

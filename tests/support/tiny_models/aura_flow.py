"""A tiny AuraFlow."""

import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel, FlowMatchEulerDiscreteScheduler
from transformers import UMT5Config, UMT5EncoderModel

from .parts import kl_autoencoder, t5

# filled up to more, a prompt would hardly change an image
STOCK = {"max_sequence_length": 64}


def build(*, num_layers: int = 1, num_single_layers: int = 2, text_width: int = 32, seed: int = 0) -> AuraFlowPipeline:
    """Random weights; 2 pixels a latent, and patches of 2 x 2 latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, tokenizer = t5(text_width, 256)
        text_encoder = UMT5EncoderModel(UMT5Config(**encoder.config.to_diff_dict()))
        # at the usual spread of 0.02 a prompt would hardly change an image
        torch.nn.init.normal_(text_encoder.get_input_embeddings().weight)
        transformer = AuraFlowTransformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=num_layers,
            num_single_dit_layers=num_single_layers,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=text_width,
            caption_projection_dim=32,
            out_channels=4,
            pos_embed_max_size=256,
        )
        # new gates are nearly shut, and what attention finds would hardly change an image
        for name, weight in transformer.named_parameters():
            if "norm" in name and name.endswith("linear.weight"):
                torch.nn.init.normal_(weight, std=0.5)
        vae = kl_autoencoder(4, scaling_factor=0.13025)
    return AuraFlowPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )

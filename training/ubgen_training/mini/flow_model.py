"""The parts of the mini flow model, in Stable Diffusion 3's layout: an MM-DiT, two CLIP text encoders and no T5.

Two choices make the attention between image and words carry what a prompt says, so that masks can be read from it.
Each text encoder has one layer, and Stable Diffusion 3 reads the features before the last layer: so each token's
features are those of its own word and place. And the pooled features, which reach every image token without
attention, are left out of half of the training samples (:mod:`.flow_training`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

# of the two text encoders, features and pooled features alike
TEXT_WIDTHS = (64, 32)
HEAD_WIDTH = 32


def build_text_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    """An untrained text encoder: token ids ``(B, L)`` to features ``(B, L, width)`` and pooled ones ``(B, width)``."""
    special: dict[str, Any] = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=1,
        num_attention_heads=width // 16,
        max_position_embeddings=tokenizer.model_max_length,
        **special,
    )
    encoder = CLIPTextModelWithProjection(config)
    embeddings = encoder.text_model.embeddings
    # what the transformer reads: at CLIP's own 0.02 all tokens would look alike beside its first layer's biases
    torch.nn.init.normal_(embeddings.token_embedding.weight, std=0.5)
    torch.nn.init.normal_(embeddings.position_embedding.weight, std=0.2)
    return encoder


def build_transformer(num_layers: int = 5, num_heads: int = 4) -> SD3Transformer2DModel:
    """The untrained transformer, of latents ``(B, 4, 16, 16)``: 64 image tokens.

    Modulations and the last layer begin at zero, so that each block begins as the identity (Peebles and Xie 2023).
    """
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=num_layers,
        num_attention_heads=num_heads,
        attention_head_dim=HEAD_WIDTH,
        joint_attention_dim=sum(TEXT_WIDTHS),
        caption_projection_dim=num_heads * HEAD_WIDTH,
        pooled_projection_dim=sum(TEXT_WIDTHS),
        # as many as there are, so that neighbours lie one apart in the sinusoids: larger images have no positions
        pos_embed_max_size=8,
    )
    blocks: Any = transformer.transformer_blocks
    modulations = [norm.linear for block in blocks for norm in (block.norm1, block.norm1_context)]
    layers: list[Any] = [*modulations, transformer.norm_out.linear, transformer.proj_out]
    for layer in layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return transformer


def deepen(weights: Mapping[str, torch.Tensor], num_layers: int, num_heads: int = 4) -> dict[str, torch.Tensor]:
    """The weights of a transformer of so many blocks that draws what ``weights``, of as many or fewer blocks, draw.

    New blocks come before the last one, which alone returns no text, and begin as the identity.

    Raises:
        ValueError: ``weights`` have more blocks.
    """
    present = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("transformer_blocks."))
    if present > num_layers:
        raise ValueError(f"num_layers is {num_layers}, but the weights have {present} blocks; give as many or more.")
    last, moved = f"transformer_blocks.{present - 1}.", f"transformer_blocks.{num_layers - 1}."
    renamed = {moved + name.removeprefix(last) if name.startswith(last) else name: weights[name] for name in weights}
    return build_transformer(num_layers, num_heads).state_dict() | renamed


def assemble_pipeline(
    vae: AutoencoderKL,
    transformer: SD3Transformer2DModel,
    text_encoders: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection],
    tokenizer: CLIPTokenizer,
) -> StableDiffusion3Pipeline:
    """A plain diffusers pipeline of the trained parts."""
    parts: dict[str, Any] = {
        "vae": vae,
        "text_encoder": text_encoders[0],
        "text_encoder_2": text_encoders[1],
        "text_encoder_3": None,
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
        "tokenizer_3": None,
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=1.0),
    }
    return StableDiffusion3Pipeline(**parts)

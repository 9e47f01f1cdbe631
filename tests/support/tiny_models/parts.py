"""What several families are made of: text encoders with their tokenizers, and autoencoders."""

import string
from typing import Any

from diffusers import AutoencoderKL
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

LETTERS = tuple(string.ascii_lowercase)


def clip_tokenizer(length: int = 77) -> CLIPTokenizer:
    """Every word of small letters has its letters as tokens."""
    tokens = (*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>")
    return CLIPTokenizer(vocab={token: row for row, token in enumerate(tokens)}, merges=[], model_max_length=length)


def clip(width: int, *, projected: bool, length: int = 77, projection: int | None = None) -> tuple[Any, CLIPTokenizer]:
    """A CLIP text encoder of that width; ``projected`` as SDXL's second and SD3's both are."""
    tokenizer = clip_tokenizer(length)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=length,
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config), tokenizer


def t5(width: int, length: int = 64) -> tuple[T5EncoderModel, T5TokenizerFast]:
    """A T5 encoder of that width, whose tokens are letters and the mark that begins a word."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((letter, -3.0) for letter in LETTERS)]
    tokenizer = T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=length)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_ff=2 * width,
        d_kv=8,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
    )
    return T5EncoderModel(config), tokenizer


def kl_autoencoder(channels: int, num_levels: int = 2, **settings: Any) -> AutoencoderKL:
    """With two levels a latent stands for 2 x 2 pixels, with each more for twice as many a side."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * num_levels,
        up_block_types=("UpDecoderBlock2D",) * num_levels,
        block_out_channels=(4,) * (num_levels - 1) + (8,),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        **settings,
    )

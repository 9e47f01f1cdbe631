"""A tiny random CLIP with the mini tokenizer, in transformers layout, for tests of what only needs some CLIP."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from ubgen_training.mini_tokenizer import build_tokenizer


def build_tiny_clip(folder: Path | str, seed: int = 0) -> str:
    """Save it under ``folder`` in float32 safetensors; equal seeds give equal weights."""
    tokenizer = build_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)

"""Tiny random CLIPs with the mini tokenizer, in the layouts of transformers and open_clip, made offline."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from ubgen_training.mini.tokenizer import build_tokenizer


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
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def build_tiny_siglip(folder: Path | str, second: bool = False) -> str:
    """Save a SigLIP, or a SigLIP 2 that keeps the image's aspect, with weights strong enough to tell images apart."""
    tokenizer = build_tokenizer()
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if second:
            vision = {**sizes, "patch_size": 8, "num_patches": 16}
            model = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))
            processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
        else:
            vision = {**sizes, "patch_size": 8, "image_size": 32}
            model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
            processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def build_tiny_open_clip(folder: Path | str, resize_mode: str = "shortest") -> str:
    """Save an open_clip model in the layout of its folders on the Hub; returns the name to load it by."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    model_cfg = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    preprocess_cfg = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.25], "resize_mode": resize_mode}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (Path(folder) / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}")
    save_file(model.state_dict(), Path(folder) / "open_clip_model.safetensors")
    return f"open_clip:local-dir:{folder}"

"""The mini CLIP: an ``open_clip.CLIP`` with a convolutional image tower, trained on the unbiased world.

Captions name texture, class and background, so its text space separates all three.
"""

import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from transformers import CLIPTokenizer

from ..mini import mini_clip_path
from .networks import ConvTower
from .weights import load_float32

EMBED_DIM = 128
IMAGE_MEAN = IMAGE_STD = (0.5, 0.5, 0.5)


class ImageTower(ConvTower):
    """The convolutional trunk behind CLIP's usual input, images normalised to [-1, 1]."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward((images + 1) / 2)


def build_mini_clip(vocabulary_size: int, context_length: int) -> open_clip.CLIP:
    """The untrained model: 64x64 images and token ids to features of width ``EMBED_DIM``."""
    model = open_clip.CLIP(
        embed_dim=EMBED_DIM,
        vision_cfg=open_clip.CLIPVisionCfg(layers=1, width=64, head_width=32, image_size=64, patch_size=16),
        text_cfg=open_clip.CLIPTextCfg(
            context_length=context_length, vocab_size=vocabulary_size, width=96, heads=4, layers=2
        ),
    )
    # open_clip's own towers learn too slowly at 64 pixels: they shrink the image fourfold before the first block
    model.visual = ImageTower(EMBED_DIM)  # type: ignore[assignment]
    return model


def load_mini_clip(folder: str | Path | None = None) -> tuple[open_clip.CLIP, Callable[[list[str]], torch.Tensor]]:
    """Load the mini CLIP in eval mode and float32, with its tokenizer.

    Args:
        folder: where ``config.json``, ``model.safetensors`` and the tokenizer lie; default: the shipped one.

    Returns:
        The model, whose ``encode_image`` takes ``(B, 3, 64, 64)`` normalised to (x - 0.5) / 0.5 with x in [0, 1], and
        a function from texts to token ids ``(B, L)``.

    Raises:
        FileNotFoundError: if the folder holds no model.
    """
    folder = Path(folder or mini_clip_path())
    config = json.loads((folder / "config.json").read_text())
    model = build_mini_clip(config["vocabulary_size"], config["context_length"])
    model = load_float32(model, folder / "model.safetensors")
    return model, text_tokenizer(CLIPTokenizer.from_pretrained(folder), config["context_length"])


def text_tokenizer(tokenizer: CLIPTokenizer, context_length: int) -> Callable[[list[str]], torch.Tensor]:
    """Texts to padded token ids ``(B, context_length)``; open_clip reads the feature at the largest id."""

    def tokenize(texts: list[str]) -> torch.Tensor:
        encoded = tokenizer(
            texts, padding="max_length", truncation=True, max_length=context_length, return_tensors="pt"
        )
        # the end mark also pads: keep the first one only, so that argmax finds it whatever comes after
        return encoded.input_ids * encoded.attention_mask

    return tokenize

"""Gemma 2, the text encoder of Sana and Lumina 2, as small as it comes."""

import torch
from tokenizers.processors import TemplateProcessing
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

from .parts import LETTERS


def gemma2(width: int = 8, num_layers: int = 1) -> tuple[Gemma2Model, GemmaTokenizer]:
    """Gemma 2 with features ``width`` wide, and its tokenizer."""
    vocabulary = {
        token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *LETTERS])
    }
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=8192)
    # an empty prompt is a start mark, and not nothing
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    config = Gemma2Config(
        head_dim=8,
        hidden_size=width,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=num_layers,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
    )
    text_encoder = Gemma2Model(config)
    # at the usual deviation of 0.02 a prompt would hardly change an image
    torch.nn.init.normal_(text_encoder.get_input_embeddings().weight)
    return text_encoder.eval(), tokenizer

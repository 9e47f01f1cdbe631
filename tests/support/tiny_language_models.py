"""Tiny causal language models with byte-level tokenizers, made offline: a random one, and one that knows sentences."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from support.tiny_vision_language import build_byte_tokenizer

CHAT_TEMPLATE = "{% for message in messages %}USER: {{ message['content'] }}{% endfor %} ASSISTANT:"


def save_random_language_model(folder: Path, *, chat: bool) -> str:
    """Save a model of random weights; returns the folder."""
    return _save(folder, build_byte_tokenizer([]), chat=chat, initializer_range=0.3)[0]


def save_knowing_language_model(folder: Path, sentences: Sequence[str], *, chat: bool) -> str:
    """Save a model that answers anything with one of the sentences, each as likely; returns the folder.

    A sentence is one token. The layers add nothing, so the next token depends on the last one alone: after a sentence
    comes the end mark, after anything else a sentence.
    """
    tokenizer = build_byte_tokenizer([])
    tokenizer.add_tokens(list(sentences))
    path, network = _save(folder, tokenizer, chat=chat, initializer_range=0.0)
    known = tokenizer.convert_tokens_to_ids(list(sentences))
    with torch.no_grad():
        network.model.embed_tokens.weight[:, 0] = 1
        network.model.embed_tokens.weight[known] = torch.eye(8)[1]
        network.lm_head.weight[known, 0] = 50
        network.lm_head.weight[tokenizer.eos_token_id, 1] = 50
    network.save_pretrained(path)
    return path


def _save(
    folder: Path, tokenizer: PreTrainedTokenizerFast, *, chat: bool, initializer_range: float
) -> tuple[str, LlamaForCausalLM]:
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=initializer_range,
    )
    torch.manual_seed(0)
    network = LlamaForCausalLM(config).eval()
    network.save_pretrained(folder)
    return str(folder), network

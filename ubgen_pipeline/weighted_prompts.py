"""Prompts with word weights, as a pipeline's own tokenizer and text encoder read them."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers

from .prompt_encoding import encode_weighted, token_chunks
from .prompt_weights import parse_weights


def encode_weighted_prompts(
    pipeline: Any, prompts: Sequence[str], num_chunks: int | None, lora_scale: float | None
) -> torch.Tensor:
    """Text features ``(B, C * L, D)`` of B prompts; see the pipeline's method of that name."""
    distinct = list(dict.fromkeys(prompts))

    def encode(token_ids: torch.Tensor) -> torch.Tensor:
        return pipeline.text_encoder(token_ids.to(pipeline._execution_device))[0]

    if lora_scale is not None:
        scale_lora_layers(pipeline.text_encoder, lora_scale)
    try:
        fragments = [_fragments(pipeline, prompt) for prompt in distinct]
        features = encode_weighted(pipeline.tokenizer, encode, fragments, num_chunks)
    finally:
        if lora_scale is not None:
            unscale_lora_layers(pipeline.text_encoder, lora_scale)
    return features[[distinct.index(prompt) for prompt in prompts]]


def count_prompt_chunks(pipeline: Any, prompts: Iterable[str]) -> int:
    """Tokenizer lengths that the longest of the weighted prompts takes."""
    return max(len(token_chunks(pipeline.tokenizer, _fragments(pipeline, prompt))[0]) for prompt in set(prompts))


def _fragments(pipeline: Any, prompt: str) -> list[tuple[str, float]]:
    pieces = [(piece.text, piece.weight) for piece in parse_weights(prompt)]
    added = pipeline.tokenizer.added_tokens_encoder
    if any(f"{token}_1" in added for token in added):
        # a textual inversion of several vectors becomes several tokens
        pieces = [(str(pipeline.maybe_convert_prompt(text, pipeline.tokenizer)), weight) for text, weight in pieces]
    return pieces

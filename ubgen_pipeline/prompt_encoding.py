"""Text features of weighted and of long prompts, for a CLIP tokenizer and text encoder; and prompts too long.

    B prompts, C chunks of L tokens (start and end mark included), D features

A token's feature z with weight w becomes e + w (z - e), where e is the feature at that place of the empty prompt, as
the compel library does for weights above one. Below one compel mixes in prompts without the words instead; here the
one formula holds for all weights. A prompt longer than the tokenizer takes is encoded in chunks that follow each
other along the token axis.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers

from .prompt_weights import parse_weights

# (text, weight) pairs of one prompt, in order
Weighted = Sequence[tuple[str, float]]


def token_chunks(tokenizer: Any, prompt: Weighted) -> tuple[list[list[int]], list[list[float]]]:
    """Token ids and weights of a prompt in chunks of the tokenizer's length, padded; an empty prompt makes one chunk.

    Args:
        tokenizer: a CLIP tokenizer; ``model_max_length`` is L.
        prompt: pieces of text with their weights.

    Returns:
        C lists of L ids, and C lists of L weights that are 1 at marks and padding.
    """
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in prompt:
        piece = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        ids += piece
        weights += [weight] * len(piece)
    length = tokenizer.model_max_length
    room = length - 2
    chunks_of_ids, chunks_of_weights = [], []
    for start in range(0, max(len(ids), 1), room):
        body, factors = ids[start : start + room], weights[start : start + room]
        padding = room - len(body)
        chunks_of_ids.append(
            [tokenizer.bos_token_id, *body, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding]
        )
        chunks_of_weights.append([1.0, *factors, *[1.0] * (padding + 1)])
    return chunks_of_ids, chunks_of_weights


def encode_weighted(
    tokenizer: Any,
    encode: Callable[[torch.Tensor], torch.Tensor],
    prompts: Sequence[Weighted],
    num_chunks: int | None = None,
) -> torch.Tensor:
    """Features ``(B, C * L, D)`` of B prompts.

    Args:
        tokenizer: as in :func:`token_chunks`.
        encode: from token ids ``(N, L)`` int64 to features ``(N, L, D)``.
        prompts: pieces of text with their weights, one list per prompt.
        num_chunks: C; shorter prompts are filled up with empty ones. None takes the longest prompt's number.

    Raises:
        ValueError: a prompt has more chunks than ``num_chunks``.
    """
    chunked = [token_chunks(tokenizer, prompt) for prompt in prompts]
    longest = max(len(ids) for ids, _ in chunked)
    count = longest if num_chunks is None else num_chunks
    if longest > count:
        raise ValueError(f"num_chunks is {count}, but a prompt has {longest} chunks; give at least that.")
    ([empty], [ones]) = token_chunks(tokenizer, [])
    rows = [empty]
    weights = []
    for ids, factors in chunked:
        rows += ids + [empty] * (count - len(ids))
        weights += factors + [ones] * (count - len(ids))
    features = encode(torch.tensor(rows))
    nothing, features = features[:1], features[1:]
    scale = torch.tensor(weights, dtype=features.dtype, device=features.device)[..., None]
    # not e + w (z - e) where w is 1: that would round
    weighted = torch.where(scale == 1, features, nothing + scale * (features - nothing))
    return weighted.reshape(len(prompts), -1, features.shape[-1])


def check_prompt_lengths(
    tokenizer: Any, texts: Sequence[str], class_names: Sequence[str], *, limit: int | None = None
) -> None:
    """Raise ``ValueError`` naming the class of the first of the texts that the tokenizer would cut.

    ``limit`` is the number of tokens that the model reads; None takes all that the tokenizer does.
    """
    counts = (len(tokenizer(text, verbose=False).input_ids) for text in texts)
    check_token_counts(counts, tokenizer.model_max_length if limit is None else limit, class_names)


def check_token_counts(counts: Iterable[int], limit: int, class_names: Sequence[str]) -> None:
    """Raise ``ValueError`` naming the class of the first prompt with more tokens than the model takes.

    Args:
        counts: tokens of the prompts.
        limit: tokens that the model takes.
        class_names: of the prompts.
    """
    for name, count in zip(class_names, counts, strict=True):
        if count > limit:
            raise ValueError(
                f"class name {name!r} gives a prompt of {count} tokens, start and end included; the model's"
                f" tokenizer takes {limit}. Shorten the name or its prompt."
            )


def encode_weighted_prompts(
    pipeline: Any,
    prompts: Sequence[str],
    num_chunks: int | None,
    lora_scale: float | None,
    *,
    suffix: str = "",
    layer: int | None = None,
) -> torch.Tensor:
    """Text features ``(B, C * L, D)`` of B prompts with word weights; each distinct prompt is encoded once.

    Args:
        pipeline: with a CLIP tokenizer and text encoder.
        prompts: texts, see :mod:`.prompt_weights` for the syntax.
        num_chunks: C; None takes what the longest prompt needs.
        lora_scale: of a LoRA in the text encoder.
        suffix: of the names of tokenizer and text encoder, where there are several.
        layer: whose features are read; None: what the text encoder gives.

    Raises:
        ValueError: a prompt needs more chunks than ``num_chunks``.
    """
    distinct = list(dict.fromkeys(prompts))
    tokenizer, encoder = getattr(pipeline, f"tokenizer{suffix}"), getattr(pipeline, f"text_encoder{suffix}")

    def encode(token_ids: torch.Tensor) -> torch.Tensor:
        output = encoder(token_ids.to(pipeline._execution_device), output_hidden_states=layer is not None)
        return output[0] if layer is None else output.hidden_states[layer]

    if lora_scale is not None:
        scale_lora_layers(encoder, lora_scale)
    try:
        fragments = [_fragments(pipeline, tokenizer, prompt) for prompt in distinct]
        features = encode_weighted(tokenizer, encode, fragments, num_chunks)
    finally:
        if lora_scale is not None:
            unscale_lora_layers(encoder, lora_scale)
    return features[[distinct.index(prompt) for prompt in prompts]]


def count_prompt_chunks(pipeline: Any, prompts: Iterable[str]) -> int:
    """Tokenizer lengths that the longest of the weighted prompts takes."""
    tokenizer = pipeline.tokenizer
    return max(len(token_chunks(tokenizer, _fragments(pipeline, tokenizer, prompt))[0]) for prompt in set(prompts))


def _fragments(pipeline: Any, tokenizer: Any, prompt: str) -> list[tuple[str, float]]:
    pieces = [(piece.text, piece.weight) for piece in parse_weights(prompt)]
    added = tokenizer.added_tokens_encoder
    if any(f"{token}_1" in added for token in added):
        # a textual inversion of several vectors becomes several tokens
        pieces = [(str(pipeline.maybe_convert_prompt(text, tokenizer)), weight) for text, weight in pieces]
    return pieces

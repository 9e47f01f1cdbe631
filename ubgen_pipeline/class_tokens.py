"""Where the class words stand in a text, in characters and in tokens."""

import re
from collections.abc import Sequence
from typing import Any

import torch


def append_class_words(prompt: str, words: Sequence[str]) -> str:
    """The prompt ending with the class words: ``caption; word word``, unless it ends with them already."""
    class_prompt = " ".join(words)
    if re.search(rf"(?<!\w){re.escape(class_prompt)}\W*$", prompt, re.IGNORECASE):
        return prompt
    return f"{prompt}; {class_prompt}"


def word_spans(text: str, words: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Where each of the words (names of one or more words) stands in the text, as (start, end) characters.

    Whole words, in any case. Longer names claim their place first, so that the "dog" of "hot dog" is no dog.

    Raises:
        ValueError: one of the words is not there.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    left = text
    for word in sorted(set(words), key=len, reverse=True):
        pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        found[word] = [match.span() for match in pattern.finditer(left)]
        if not word.strip() or not found[word]:
            raise ValueError(f"class word {word!r} does not stand in the prompt {text!r}; add it, or append it.")
        for start, end in found[word]:
            left = left[:start] + "\0" * (end - start) + left[end:]
    return [found[word] for word in words]


def token_weights(tokenizer: Any, text: str, words: Sequence[str], length: int) -> torch.Tensor:
    """``(K, length)`` float32 weights that average the tokens of each of K class words; rows sum to 1.

    Args:
        tokenizer: a fast transformers tokenizer (it gives offsets).
        text: the text that the words stand in, as it is tokenized; tokens past ``length`` are cut.
        words: K names; those of several words or tokens are averaged over all, in all the places where they stand.
        length: of the text features.

    Raises:
        ValueError: a word is not in the text, or the tokenizer cuts all of it.
    """
    offsets = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"][: length - 1]
    weights = torch.zeros(len(words), length)
    for row, spans in enumerate(word_spans(text, words)):
        for position, (start, end) in enumerate(offsets):
            # special tokens have empty offsets
            if end > start and any(start < last and end > first for first, last in spans):
                weights[row, position] = 1
        if not weights[row].any():
            raise ValueError(
                f"class word {words[row]!r} lies beyond the {length} tokens that the model reads of {text!r};"
                " use fewer classes or shorter prompts."
            )
    return weights / weights.sum(dim=1, keepdim=True)


def split_words(tokenizer: Any, words: Sequence[str], length: int) -> list[list[str]]:
    """The class words in as few groups as fit into class prompts of ``length`` tokens, in order, mostly one group.

    Raises:
        ValueError: a single word has more tokens than fit.
    """
    groups: list[list[str]] = []
    for word in words:
        if groups and _num_tokens(tokenizer, " ".join([*groups[-1], word])) <= length:
            groups[-1].append(word)
        elif _num_tokens(tokenizer, word) <= length:
            groups.append([word])
        else:
            raise ValueError(
                f"class name {word!r} has more tokens than the {length} that the model reads; shorten it."
            )
    return groups


def fit_prompt(tokenizer: Any, prompt: str, words: Sequence[str], length: int) -> str:
    """The prompt shortened, word by word from the caption's end, until it and the class words have ``length`` tokens.

    Prompts that fit are given back as they are. Where even the class words are too long, as many of them as fit.
    """
    if _num_tokens(tokenizer, prompt) <= length:
        return prompt
    class_prompt = " ".join(words)
    caption = re.sub(rf"[;,.\s]*{re.escape(class_prompt)}\W*$", "", prompt, flags=re.IGNORECASE).split()
    for count in range(len(caption) - 1, 0, -1):
        shorter = f"{' '.join(caption[:count])}; {class_prompt}"
        if _num_tokens(tokenizer, shorter) <= length:
            return shorter
    return " ".join(split_words(tokenizer, words, length)[0])


def _num_tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, verbose=False)["input_ids"])

"""Where the class words stand in a text, in characters and in tokens."""

import re
from collections.abc import Sequence
from typing import Any

import torch

from .attention_maps import ClassTexts


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
    return joint_token_weights([(tokenizer, length)], text, words)


def joint_token_weights(readers: Sequence[tuple[Any, int]], text: str, words: Sequence[str]) -> torch.Tensor:
    """``(K, L)`` float32 weights that average each class word's tokens over several tokenizers; rows sum to 1.

    Args:
        readers: fast transformers tokenizers, each with the number of tokens that are read of its text; L is their
            sum. Those that cut a word are left out of its average.
        text: what all of them tokenize.
        words: as in :func:`token_weights`.

    Raises:
        ValueError: a word is not in the text, or every tokenizer cuts all of it.
    """
    found = torch.cat([_mean_over_tokens(tokenizer, text, words, length) for tokenizer, length in readers], dim=1)
    sums = found.sum(dim=1, keepdim=True)
    if not sums.all():
        word, most = words[int(sums[:, 0].argmin())], max(length for _, length in readers)
        raise ValueError(
            f"class word {word!r} lies beyond the {most} tokens that the model reads of {text!r};"
            " use fewer classes or shorter prompts."
        )
    return found / sums


def _mean_over_tokens(tokenizer: Any, text: str, words: Sequence[str], length: int) -> torch.Tensor:
    """``(K, length)``: rows sum to 1, or are 0 where the tokenizer cuts all of the word."""
    offsets = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"][: length - 1]
    weights = torch.zeros(len(words), length)
    for row, spans in enumerate(word_spans(text, words)):
        for position, (start, end) in enumerate(offsets):
            # special tokens have empty offsets
            if end > start and any(start < last and end > first for first, last in spans):
                weights[row, position] = 1
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1)


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


def class_texts(pipeline: Any, prompt: str, words: Sequence[str], class_prompt: bool) -> ClassTexts:
    """Whose attention to record for one sample: :func:`class_token_weights` with the texts' features."""
    texts, weights = class_token_weights(pipeline, prompt, words, class_prompt)
    embeds = pipeline.batch(pipeline.encode(texts))["encoder_hidden_states"]
    return ClassTexts(embeds, torch.zeros(len(texts), dtype=torch.int64), weights)


def class_token_weights(
    pipeline: Any, prompt: str, words: Sequence[str], class_prompt: bool
) -> tuple[list[str], torch.Tensor]:
    """R texts that name the classes of one sample, and ``(R, K, L)`` weights of their tokens.

    One text, unless there are more class words than one holds.

    Args:
        pipeline: a ``UbGenPipeline``.
        prompt: what the image is drawn from.
        words: the names of the K classes that it shows, each once.
        class_prompt: whether the keys come from the class words alone (Dataset Diffusion, section 3.2), or from the
            prompt, in which they then stand.

    Raises:
        ValueError: a word that is not in the prompt, or past the tokens that the model reads.
    """
    tokenizer, length = pipeline.tokenizer, pipeline.tokenizer.model_max_length
    # textual inversion may spell one name in several tokens
    words = [pipeline.maybe_convert_prompt(word, tokenizer) for word in words]
    groups = split_words(tokenizer, words, length) if class_prompt else [list(words)]
    texts = [" ".join(group) for group in groups] if class_prompt else [prompt]
    weights = torch.zeros(len(texts), len(words), length)
    first = 0
    for row, group in enumerate(groups):
        text = pipeline.maybe_convert_prompt(texts[row], tokenizer)
        weights[row, first : first + len(group)] = token_weights(tokenizer, text, group, length)
        first += len(group)
    return texts, weights


def shown_once(
    class_names: Sequence[str],
    shown_classes: Sequence[Sequence[str]] | None,
    shown_labels: Sequence[Sequence[int]] | None,
) -> tuple[list[list[str]], list[list[int]]]:
    """The classes that the images of each of K entries show, each once, with their labels.

    Args:
        class_names: the K entries' own classes.
        shown_classes: K lists of names; None: the entry's own class.
        shown_labels: K lists of labels; None: positions in ``class_names``.

    Raises:
        ValueError: lists of different lengths, an empty one, or a name without a label.
    """
    shown_classes = [[name] for name in class_names] if shown_classes is None else shown_classes
    if shown_labels is None:
        unknown = {word for words in shown_classes for word in words} - set(class_names)
        if unknown:
            raise ValueError(f"shown_classes holds {min(unknown)!r}, which is not in class_names; give shown_labels.")
        shown_labels = [[class_names.index(word) for word in words] for words in shown_classes]
    lengths = [len(words) for words in shown_classes]
    if lengths != [len(row) for row in shown_labels] or len(lengths) != len(class_names) or 0 in lengths:
        raise ValueError(
            f"shown_classes has lists of {lengths} names for {len(class_names)} entries and shown_labels of"
            f" {[len(row) for row in shown_labels]}; give each entry at least one name, and each name a label."
        )
    distinct = [dict(zip(words, row)) for words, row in zip(shown_classes, shown_labels)]
    return [list(row) for row in distinct], [list(row.values()) for row in distinct]

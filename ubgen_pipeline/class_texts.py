"""Which classes an image shows, and the texts whose attention finds them."""

from collections.abc import Sequence
from typing import Any

import torch

from .attention_maps import ClassTexts
from .class_tokens import split_words, token_weights


def class_texts(pipeline: Any, prompt: str, words: Sequence[str], class_prompt: bool) -> ClassTexts:
    """Whose attention to record for one sample: :func:`class_token_weights` with the texts' features."""
    texts, weights = class_token_weights(pipeline, prompt, words, class_prompt)
    return ClassTexts(pipeline.encode_prompts(texts), torch.zeros(len(texts), dtype=torch.int64), weights)


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

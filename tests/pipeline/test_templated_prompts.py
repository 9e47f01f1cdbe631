"""Prompts in a chat template: tokens are counted with it, and places are the prompt's own."""

import pytest

from support.tiny_models.qwen import qwen_tokenizer
from ubgen_pipeline.templated_prompts import TemplatedTokenizer


def template(prompt):
    return f"<|im_start|>user star\n{prompt}<|im_end|>"


def spelt(prompt, offsets):
    return "".join(prompt[start:end] for start, end in offsets)


def test_places_are_the_prompts_own():
    prompt = "a star, a heart"
    tokens = TemplatedTokenizer(qwen_tokenizer(), template)(prompt, return_offsets_mapping=True, verbose=False)
    assert spelt(prompt, tokens["offset_mapping"]) == prompt
    # the mark, "user star" and the line's end, and the other mark: one token a letter
    assert len(tokens["input_ids"]) == len(tokens["offset_mapping"]) == 1 + 10 + len(prompt) + 1
    assert tokens["offset_mapping"][:11] == [(0, 0)] * 11 and tokens["offset_mapping"][-1] == (0, 0)


def test_tokens_are_counted_with_the_template():
    tokenizer = TemplatedTokenizer(qwen_tokenizer(), template)
    assert (tokenizer.count(""), tokenizer.count("star")) == (12, 16)


def test_features_that_are_dropped_have_no_place():
    tokenizer = TemplatedTokenizer(qwen_tokenizer(), template, num_dropped=11)
    assert tokenizer("star")["offset_mapping"] == [(0, 1), (1, 2), (2, 3), (3, 4), (0, 0)]
    assert tokenizer.count("star") == 16


@pytest.mark.parametrize(("side", "first"), [("right", 11), ("left", 20 - 16 + 11)])
def test_texts_are_filled_up_on_the_tokenizers_side(side, first):
    tokenizer = qwen_tokenizer()
    tokenizer.padding_side = side
    offsets = TemplatedTokenizer(tokenizer, template, length=20)("star")["offset_mapping"]
    assert offsets[first : first + 4] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert all(offset == (0, 0) for offset in [*offsets[:first], *offsets[first + 4 :]])

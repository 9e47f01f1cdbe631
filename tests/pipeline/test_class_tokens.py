"""Where class words stand in prompts and which tokens they are, with the mini model's tokenizer."""

import pytest
import torch
from transformers import CLIPTokenizer

from ubgen_pipeline.class_tokens import (
    append_class_words,
    class_token_weights,
    fit_prompt,
    shown_once,
    split_words,
    token_weights,
    word_spans,
)


@pytest.fixture(scope="module")
def tokenizer(mini_model):
    return CLIPTokenizer.from_pretrained(mini_model, subfolder="tokenizer")


class OnlyTokenizer:
    """The part of a pipeline that finding tokens needs."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def maybe_convert_prompt(self, prompt, tokenizer):
        return prompt


def words_of(tokenizer, text, weights):
    """The pieces of text that each row of weights looks at."""
    tokens = tokenizer.tokenize(text)
    return ["".join(tokens[int(i) - 1].replace("</w>", " ") for i in row.nonzero()[:, 0]).strip() for row in weights]


def test_names_of_several_tokens(tokenizer):
    text = "potted plant circle dining table"
    weights = token_weights(tokenizer, text, ["dining table", "potted plant", "circle"], 24)
    assert words_of(tokenizer, text, weights) == ["dining table", "potted plant", "circle"]
    assert (weights > 0).sum(dim=1)[0] > 2
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))


def test_whole_words_longest_first_in_any_case():
    assert word_spans("A hot dog, a Dog and dogs", ["dog", "hot dog"]) == [[(13, 16)], [(2, 9)]]
    assert word_spans("person person sofa", ["person"]) == [[(0, 6), (7, 13)]]
    with pytest.raises(ValueError, match="class word 'dog' does not stand in the prompt 'a hot dog'"):
        word_spans("a hot dog", ["dog", "hot dog"])


def test_appending():
    assert append_class_words("a baby in a car", ["person", "car"]) == "a baby in a car; person car"
    assert append_class_words("a baby; person car", ["person", "car"]) == "a baby; person car"
    assert append_class_words("Star", ["star"]) == "Star"
    assert append_class_words("a superstar", ["star"]) == "a superstar; star"


def test_class_words_are_spread_over_texts(tokenizer):
    words = ["dining table", "cup", "bowl", "broccoli", "knife", "fork"]
    groups = split_words(tokenizer, words, 24)
    assert len(groups) > 1 and [word for group in groups for word in group] == words
    texts, weights = class_token_weights(OnlyTokenizer(tokenizer), "", words, True)
    assert texts == [" ".join(group) for group in groups] and weights.shape == (len(groups), 6, 24)
    torch.testing.assert_close(weights.sum(dim=(0, 2)), torch.ones(6))
    with pytest.raises(ValueError, match="has more tokens than the 4"):
        split_words(tokenizer, words, 4)


def test_prompts_are_cut_before_the_class_words(tokenizer):
    prompt = "a very long description of nothing that goes on and on; star circle"
    short = fit_prompt(tokenizer, prompt, ["star", "circle"], 24)
    assert len(tokenizer(short).input_ids) <= 24 and short.endswith("; star circle")
    assert prompt.startswith(short.removesuffix("; star circle"))
    assert fit_prompt(tokenizer, "a star; star", ["star"], 24) == "a star; star"
    many = ["broccoli", "refrigerator", "dining table", "knife"]
    assert fit_prompt(tokenizer, "a b; " + " ".join(many), many, 24) == " ".join(split_words(tokenizer, many, 24)[0])


def test_words_past_the_end_are_refused(tokenizer):
    text = "a " * 30 + "star"
    with pytest.raises(ValueError, match="'star' lies beyond the 24 tokens"):
        token_weights(tokenizer, text, ["star"], 24)
    with pytest.raises(ValueError, match="'ring' does not stand"):
        class_token_weights(OnlyTokenizer(tokenizer), "a star", ["ring"], False)


def test_shown_once():
    assert shown_once(["a", "b"], None, None) == ([["a"], ["b"]], [[0], [1]])
    assert shown_once(["b", "b"], None, None) == ([["b"], ["b"]], [[0], [0]])
    assert shown_once(["x"], [["a", "b", "a"]], [[4, 2, 4]]) == ([["a", "b"]], [[4, 2]])
    with pytest.raises(ValueError, match="'c', which is not in class_names"):
        shown_once(["a"], [["c"]], None)
    with pytest.raises(ValueError, match="give each entry at least one name"):
        shown_once(["a", "b"], [["a"], []], None)

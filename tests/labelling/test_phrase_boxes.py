"""Scores of phrases from scores of tokens."""

import pytest
import torch

from ubgen_pipeline.labelling.phrase_boxes import PhraseBoxes, phrase_scores


def test_a_phrase_has_the_mean_probability_of_its_own_tokens():
    probabilities = torch.tensor([[0.5, 0.9, 0.1, 0.2], [0.5, 0.2, 0.4, 0.8]])
    scores = phrase_scores(probabilities.logit(), [[1, 2], [3]])
    assert torch.allclose(scores, torch.tensor([[0.5, 0.2], [0.3, 0.8]]), atol=1e-6)


def test_a_phrase_without_words_is_named():
    with pytest.raises(ValueError, match=r"class or phrase ' \. ' has no word to look for"):
        PhraseBoxes(_Network(), _Processor(), ["cat", " . "], "cpu")


class _Network:
    config = type("Config", (), {"max_text_len": 8})


class _Processor:
    tokenizer = None

"""The tokenizer of the mini world, and captions of its scenes."""

import random
import subprocess

import torch

from support.warm_python import warm_programs
from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, TEXTURE_NAMES
from ubgen_training.mini.scene_batches import render_set
from ubgen_training.mini.tokenizer import UNNAMED, build_tokenizer, choose_caption, factor_table, true_pairs


def test_captions_are_true_of_their_own_scene_and_of_no_scene_that_contradicts_them():
    data = render_set(40, bias=0.0, seed=3, num_workers=1)
    factors, rng = factor_table(data), random.Random(0)
    captions, named = zip(*(choose_caption(row, rng) for row in factors.tolist()))
    pairs = true_pairs(factors, torch.tensor(named))
    assert pairs.diagonal().all()
    vocabularies = (CLASS_NAMES, BACKGROUND_NAMES, TEXTURE_NAMES)
    for column, caption in enumerate(captions):
        words = set(caption.split())
        for row in range(40):
            contradicted = any(
                words & set(vocabulary) and vocabulary[factors[row, i]] not in words
                for i, vocabulary in enumerate(vocabularies)
            )
            assert bool(pairs[row, column]) == (not contradicted)
    assert any(UNNAMED in row for row in named)


def test_every_word_of_the_world_is_one_token_and_unknown_text_survives():
    tokenizer = build_tokenizer()
    for word in (*CLASS_NAMES, *TEXTURE_NAMES, *BACKGROUND_NAMES):
        assert len(tokenizer.tokenize(word)) == 1, word
    assert len(tokenizer.tokenize("giraffe")) > 1
    assert tokenizer.decode(tokenizer("giraffe").input_ids, skip_special_tokens=True).strip() == "giraffe"


def test_tokenizer_is_the_same_in_every_process():
    program = (
        "from ubgen_training.mini.tokenizer import build_tokenizer; "
        "print(sorted(build_tokenizer().get_vocab().items()))"
    )
    done = subprocess.run([warm_programs() / "python", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{sorted(build_tokenizer().get_vocab().items())}\n"

"""The texts of the mini world: the tokenizer that its models read, and captions of scenes that CLIP is trained on.

The tokenizer is a real ``CLIPTokenizer`` over a byte-level vocabulary learnt from the world's words. Any text can be
written in it, letter by letter where no longer piece is known. A caption names some of a scene's class, background
and texture.

Shapes: N scenes, B scenes and T captions of a batch.
"""

import json
import random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, NOVEL_CLASS_NAMES, TEXTURE_NAMES

from .scene_batches import SceneSet

MAX_LENGTH = 24
VOCABULARY_SIZE = 1024
# stands for a factor that a caption does not name
UNNAMED = -1


def build_tokenizer() -> CLIPTokenizer:
    """Learn byte-pair merges such that every word of the world is one token; the same ones in every process."""
    words = ["a", "photo", "of", "on", *CLASS_NAMES, *NOVEL_CLASS_NAMES, *TEXTURE_NAMES, *BACKGROUND_NAMES]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY_SIZE, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    # the learner breaks ties between equally frequent pairs at random, so no two pairs may be equally frequent
    learner.train_from_iterator([word for i, word in enumerate(words) for _ in range(100 + i * i)], trainer)
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    pieces = list(dict.fromkeys([*alphabet, *(f"{letter}</w>" for letter in alphabet), *(a + b for a, b in merges)]))
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    learned: dict[str, Any] = {"vocab": {piece: index for index, piece in enumerate(pieces)}, "merges": merges}
    return CLIPTokenizer(**learned, model_max_length=MAX_LENGTH)


def factor_table(data: SceneSet) -> torch.Tensor:
    """``(N, 3)`` int64: class, background and texture of every scene."""
    rows = [
        (CLASS_NAMES.index(f.class_name), BACKGROUND_NAMES.index(f.background), TEXTURE_NAMES.index(f.texture))
        for f in data.factors
    ]
    return torch.tensor(rows)


def choose_caption(factors: list[int], rng: random.Random) -> tuple[str, list[int]]:
    """A random caption that is true of a scene, and the factors that it names, ``UNNAMED`` for the others.

    Args:
        factors: class, background and texture of the scene; see :func:`factor_table`.
        rng: chooses what is named, and the words around it.
    """
    named = list(factors)
    for column, share in enumerate((0.1, 0.5, 0.5)):
        if rng.random() < share:
            named[column] = UNNAMED
    if named == [UNNAMED] * 3:
        named[0] = factors[0]
    thing = CLASS_NAMES[named[0]] if named[0] != UNNAMED else "object"
    if named[2] != UNNAMED:
        thing = f"{TEXTURE_NAMES[named[2]]} {thing}"
    place = f" on {BACKGROUND_NAMES[named[1]]}" if named[1] != UNNAMED else ""
    prefix = rng.choice(("", "photo of ", "a ", "a photo of a "))
    return prefix + thing + place, named


def true_pairs(factors: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
    """``(B, T)`` bool: caption t, naming ``named (T, 3)``, is true of scene b with ``factors (B, 3)``."""
    open_or_equal = (named[None] == UNNAMED) | (named[None] == factors[:, None])
    return open_or_equal.all(dim=2)

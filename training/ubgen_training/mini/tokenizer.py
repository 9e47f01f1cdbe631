"""The mini model's tokenizer: a real ``CLIPTokenizer`` over a byte-level vocabulary learnt from the world's words.

Any text can be written in it, letter by letter where no longer piece is known.
"""

import json

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, NOVEL_CLASS_NAMES, TEXTURE_NAMES

MAX_LENGTH = 24
VOCABULARY_SIZE = 1024


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
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)

"""A tiny Q-Align with weights that numpy draws by name, so that the reference implementation could draw the same ones.

``data/qalign_expected.json`` holds what the reference gave for them, and how that was made.
"""

import json
import math
import re
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaTokenizer

from support import DATA

EXPECTED = json.loads((DATA / "qalign_expected.json").read_text(encoding="utf-8"))
CONFIG = EXPECTED["config"]
# words bad to excellent, as this project orders them
LEVEL_IDS = tuple(reversed(EXPECTED["level_ids_excellent_to_bad"]))


def drawn_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor called ``name`` in the published layout, by the recipe in the JSON file."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 1:
        values = 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
    elif name.endswith("weight"):
        values = 1.5 * values / math.sqrt(math.prod(shape[1:]))
    else:
        values = 0.5 * values
    return torch.from_numpy(values.astype(np.float32))


def published_tensors() -> dict[str, torch.Tensor]:
    """All tensors of the tiny model, under the published names."""
    num_blocks = {
        "model.layers": CONFIG["num_hidden_layers"],
        "model.vision_model": CONFIG["visual_config"]["visual_model"]["num_hidden_layers"],
        "model.visual_abstractor": CONFIG["visual_config"]["visual_abstractor"]["num_hidden_layers"],
    }
    tensors = {}
    for pattern, shape in EXPECTED["published_tensors"].items():
        part = ".".join(pattern.split(".")[:2])
        for n in range(num_blocks[part] if "{n}" in pattern else 1):
            name = pattern.replace("{n}", str(n))
            tensors[name] = drawn_tensor(name, tuple(shape))
    return tensors


def drawn_pixels(seed: int) -> torch.Tensor:
    """Pixels ``(2, 3, 56, 56)`` as the reference got them."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 3, 56, 56)).astype(np.float32))


def scene(height: int, width: int) -> np.ndarray:
    """A picture ``(height, width, 3)`` in 8 bits: waves of many lengths, and edges that stay in range when resized."""
    y, x = np.mgrid[0:height, 0:width]
    red = np.sin(0.05 * x + 0.9) * np.cos(0.11 * y)
    green = np.cos(0.004 * x * y)
    blue = np.tanh(3 * np.sin(0.3 * x) * np.cos(0.4 * y))
    return (128 + 90 * np.stack([red, green, blue], -1)).round().astype(np.uint8)


def save_tiny_qalign(folder: Path, *, dtype: torch.dtype = torch.float32, level_tokens: bool = True) -> Path:
    """Save the tiny checkpoint in two shards, with a tokenizer of characters.

    Without ``level_tokens`` that tokenizer begins each of the five words with the same token.
    """
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    tensors = {name: tensor.to(dtype) for name, tensor in published_tensors().items()}
    # stored by old releases, computed by this one
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / file)
    weight_map = {name: file for file, members in shards.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    characters = "▁:?" + "USERASSISTANTHowwouldyouratethequalityofthisimageThe" + "badpoorfairgoodexcellent"
    vocabulary = dict.fromkeys(["<unk>", "<s>", "</s>", "<0x0A>", *characters])
    merges = [("▁", letter) for letter in ("b", "p", "f", "g", "e")] if level_tokens else []
    vocabulary |= dict.fromkeys("".join(pair) for pair in merges)
    LlamaTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, merges=merges).save_pretrained(folder)
    return folder


def block_counts(names: list[str]) -> dict[str, int]:
    """How many names differ in their block's number alone."""
    counts: dict[str, int] = {}
    for name in names:
        pattern = re.sub(r"\.(layers|blocks)\.\d+\.", r".\1.{n}.", name)
        counts[pattern] = counts.get(pattern, 0) + 1
    return counts

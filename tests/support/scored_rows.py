"""Rows with scores at random, written as a dataset: a 2 x 2 image each, some of them black and without scores."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Features, Image, Value

from support.scene_dataset import png
from ubgen_pipeline.dataset.shards import DatasetShards

NAMES = ["a | <b>b</b>", "star", "ring"]
FEATURES = {
    "image": Image(),
    "label": ClassLabel(names=NAMES),
    "seed": Value("int64"),
    "index": Value("int64"),
    "clip_score": Value("float32"),
    "zero_shot_label": ClassLabel(names=NAMES),
    "zero_shot_probability": Value("float32"),
    "perceptual_hash": Value("string"),
    "duplicate_group": Value("int64"),
    "nsfw_content_detected": Value("bool"),
}


def made_up(number: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with scores at random; some have none, as black images do."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(number):
        label, is_black = int(rng.integers(3)), rng.random() < 0.1
        scores = [None] * 4
        if not is_black:
            shown = label if rng.random() < 0.7 else int(rng.integers(3))
            score, probability = float(np.float32(rng.uniform(-0.2, 0.6))), 0.5 + index % 4 / 8
            scores = [score, shown, probability, f"{rng.integers(6):016x}"]
        rows.append(
            {
                "image": png(np.full((2, 2, 3), 0 if is_black else index, np.uint8)),
                "label": label,
                "seed": 2**60 + index,
                "index": index,
                **dict(zip(["clip_score", "zero_shot_label", "zero_shot_probability", "perceptual_hash"], scores)),
                "duplicate_group": index if is_black or index < 6 else int(rng.integers(6)),
                "nsfw_content_detected": bool(is_black or rng.random() < 0.1),
            }
        )
    return rows


def write(
    folder: Path, rows: Sequence[dict[str, Any]], left_out: Sequence[str] = (), samples_per_shard: int = 7
) -> Path:
    """Write the rows without the columns ``left_out``, and give the folder."""
    features = {name: feature for name, feature in FEATURES.items() if name not in left_out}
    shards = DatasetShards(folder, {"made": "for a test"}, len(rows), samples_per_shard)
    shards.open()
    for shard in shards.shards:
        kept = ({name: row[name] for name in features} for row in rows[shard.start : shard.stop])
        shards.write(shard, kept, Features(features))
    shards.finish("# Rows\n")
    return folder

"""A shard's parquet file: row groups that the Hub's viewer reads, and what its columns mean."""

import json

import numpy as np
import pyarrow.parquet as parquet
from datasets import ClassLabel, Features, Image, Value, load_dataset

from support.scene_dataset import png
from ubgen_pipeline.dataset import shard_file
from ubgen_pipeline.dataset.columns import annotation_features
from ubgen_pipeline.dataset.shard_file import write_rows
from ubgen_pipeline.mask_settings import ANNOTATIONS


def test_row_groups_end_at_a_number_of_bytes(tmp_path, monkeypatch):
    """The Hub's viewer reads groups of 300 MB; a row with all annotations at 1024 x 1024 pixels has 6 MB at most."""
    assert shard_file.ROW_GROUP_BYTES + 6_000_000 < 100_000_000
    monkeypatch.setattr(shard_file, "ROW_GROUP_BYTES", 80_000)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    image, grey, flat = png(noise), png(noise[..., 0]), png(np.zeros((32, 32), np.uint8))
    features = Features({"image": Image(), "label": ClassLabel(names=["a"])} | annotation_features(ANNOTATIONS, ["a"]))
    row = {"image": image, "label": 0, "classes": [0], "mask": flat, "confidence": grey, "instances": flat}
    row |= {"heatmaps": [grey] * 4, "objects": None}
    assert write_rows(tmp_path / "rows.parquet", (row for _ in range(64)), features) == 64
    about = parquet.read_metadata(tmp_path / "rows.parquet")
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    assert sum(group.total_byte_size for group in groups) > 5 * 80_000
    assert max(group.total_byte_size for group in groups) < 100_000
    assert len({group.num_rows for group in groups[:-1]}) == 1 and sum(group.num_rows for group in groups) == 64


def test_the_files_say_what_the_numbers_in_masks_mean(tmp_path):
    features = Features({"label": Value("int64")} | annotation_features(["mask", "instance"], ["a"]))
    row = {"label": 0, "classes": [0], "objects": None}
    row |= dict.fromkeys(("mask", "instances"), png(np.zeros((8, 8), np.uint8)))
    write_rows(tmp_path / "rows.parquet", [row, row], features)
    told = json.loads(parquet.read_schema(tmp_path / "rows.parquet").metadata[b"ubgen"])
    assert told["column_values"]["mask"] == {"background": 0, "first_label": 1, "ignore": 255}
    assert told["column_values"]["instances"] == {"background": 0, "first_object": 1}
    # and datasets reads the file as it did
    assert load_dataset(str(tmp_path), split="train").features["mask"] == Image()

"""A row by its index, with the batch that it was drawn in, as the manifest, the marks and the rows say."""

import json
import shutil

import pytest
from datasets import Features, Image, Value

from support.scene_dataset import png
from ubgen_pipeline.dataset.shards import DatasetShards
from ubgen_pipeline.generation.row_lookup import find_row, stored_image

FEATURES = {
    "image": Image(), "index": Value("int64"), "prompt": Value("string"), "seed": Value("int64"),
    "model": Value("string"),
}  # fmt: skip


def write(folder, settings, sizes=(4, 4), features=FEATURES, indices=range(10)):
    """Ten rows in shards of six; ``sizes`` are the batch sizes in the shards' marks."""
    import numpy as np

    indices = list(indices)
    shards = DatasetShards(folder, settings, len(indices), 6)
    shards.open()
    for shard, size in zip(shards.shards, sizes):
        rows = [
            {"image": png(np.full((2, 3, 3), index, np.uint8)), "index": index, "prompt": "a star", "seed": index,
             "model": "mini"}
            for index in indices[shard.start : shard.stop]
        ]  # fmt: skip
        kept = [{name: row[name] for name in features} for row in rows]
        shards.write(shard, kept, Features(features), {"batch_size": size})
    shards.finish("# Card\n")
    return str(folder)


SETTINGS = {"batch_size": 4, "samples_per_shard": 6, "num_samples": 10}


@pytest.mark.parametrize(
    ("index", "batch"), [(0, [0, 1, 2, 3]), (3, [0, 1, 2, 3]), (5, [4, 5]), (6, [6, 7, 8, 9]), (9, [6, 7, 8, 9])]
)
def test_batches_begin_with_their_shard(tmp_path, index, batch):
    row = find_row(write(tmp_path / "d", SETTINGS), index)
    assert [item["index"] for item in row.batch] == batch and row.columns["index"] == index and row.batch_is_whole
    assert stored_image(row).size == (3, 2) and stored_image(row).getpixel((0, 0)) == (index,) * 3


def test_a_shard_that_was_drawn_with_a_smaller_batch(tmp_path):
    folder = write(tmp_path / "d", SETTINGS, sizes=(4, 2))
    assert [item["index"] for item in find_row(folder, 7).batch] == [6, 7]
    # without the marks the manifest may say so
    for mark in (tmp_path / "d" / ".ubgen").glob("shard-*"):
        mark.unlink()
    assert len(find_row(folder, 7).batch) == 4
    file = tmp_path / "d" / ".ubgen" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "batch_sizes": {"1": 2}}))
    assert [item["index"] for item in find_row(folder, 9).batch] == [8, 9]


def test_a_view_keeps_the_indices_of_what_it_was_made_from(tmp_path):
    settings = {**SETTINGS, "num_samples": 5, "filters": [{"num_samples": 10}]}
    folder = write(tmp_path / "d", settings, sizes=(4,), indices=[0, 2, 6, 7, 8])
    row = find_row(folder, 7)
    # of its batch 6 to 9 the last row is gone
    assert [item["index"] for item in row.batch] == [7] and not row.batch_is_whole


def test_without_a_manifest_a_row_is_alone(tmp_path):
    write(tmp_path / "d", SETTINGS)
    shutil.rmtree(tmp_path / "d" / ".ubgen")
    row = find_row(str(tmp_path / "d"), 7)
    assert [item["index"] for item in row.batch] == [7] and row.manifest == {} and not row.batch_is_whole


def test_what_is_no_row(tmp_path):
    folder = write(tmp_path / "d", SETTINGS)
    foreign = write(tmp_path / "e", SETTINGS, features={name: FEATURES[name] for name in ("image", "index", "prompt")})
    (tmp_path / "empty").mkdir()
    for dataset, message in [
        (folder, "index is 10, which no row of"),
        (foreign, "whose rows lack 'model': ubgen did not make it"),
        (str(tmp_path / "empty"), "holds no data/train"),
        ("nowhere", "neither a folder nor an id"),
    ]:
        with pytest.raises(ValueError, match=message):
            find_row(dataset, 10)

"""A memory that turned out too small: what it was lowered to is known to the Hub, to a resume and to regenerate."""

import json

import pytest
import torch
from huggingface_hub import snapshot_download

from support.hub_stream import CLASS_NAMES
from ubgen_pipeline import generate_dataset
from ubgen_pipeline.generation.dataset_rows import DatasetRows
from ubgen_pipeline.generation.regenerate import main
from ubgen_pipeline.generation.row_lookup import find_row
from ubgen_pipeline.hub import publish_dataset

# ten rows: the first shard, 0 to 3, in one batch; 4 to 7 and 8 to 9 in batches of two
SETTINGS = {"samples_per_class": 5, "num_inference_steps": 1, "samples_per_shard": 4, "batch_size": 4, "threads": 1}
NAMES = CLASS_NAMES[:2]


@pytest.fixture
def small_memory(monkeypatch):
    """From row 4 on, more than two samples at once are too many. Gives the batches that were drawn."""
    draw, drawn = DatasetRows.rows, []

    def rows(self, indices, batch_size):
        if len(indices) > 2 and indices.start >= 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        drawn.append(indices)
        return draw(self, indices, batch_size)

    monkeypatch.setattr(DatasetRows, "rows", rows)
    return drawn


def manifest(hub, name):
    return json.loads(hub.repositories.read("dataset", name, ".ubgen/manifest.json"))


@pytest.mark.filterwarnings("ignore:the memory is not enough")
def test_streamed_published_and_drawn_again(hub, mini_model, tmp_path, small_memory, capsys):
    streamed = {**SETTINGS, "hub_dataset_id": "org/d", "shards_per_commit": 1}
    hub.faults.add("/commit/main$", skip=2, status=403)
    with pytest.raises(ValueError, match="may not write"):
        generate_dataset(NAMES, tmp_path / "first", **streamed)
    recorded = manifest(hub, "org/d")
    assert recorded["settings"]["batch_size"] == 4
    assert (recorded["lowered_batch_size"], recorded["batch_sizes"]) == (2, {"1": 2})
    # elsewhere, where nothing but the Hub knows of it
    small_memory.clear()
    generate_dataset(NAMES, tmp_path / "second", **streamed)
    assert small_memory == [range(8, 10)]
    assert manifest(hub, "org/d")["batch_sizes"] == {"1": 2, "2": 2}

    local = tmp_path / "local"
    generate_dataset(NAMES, local, **SETTINGS)
    assert publish_dataset.main([str(local), "org/published", "--shards-per-commit", "2"]) == 0
    assert manifest(hub, "org/published") == manifest(hub, "org/d")
    copy = snapshot_download("org/published", repo_type="dataset", local_dir=tmp_path / "copy")
    for dataset in (str(local), "org/d", "org/published", copy):
        assert [[row["index"] for row in find_row(dataset, index).batch] for index in (1, 5, 9)] == [
            [0, 1, 2, 3],
            [4, 5],
            [8, 9],
        ]
    assert main(["org/d", "--index", "6", "--output", str(tmp_path / "6.png")]) == 0, capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:the memory is not enough")
def test_what_another_process_noted_is_kept(hub, mini_model, tmp_path, small_memory, monkeypatch):
    """Two processes with a lowered batch each; every commit holds what both noted."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank)
        streamed = {**SETTINGS, "samples_per_class": 8, "hub_dataset_id": "org/d", "shards_per_commit": 1}
        generate_dataset(NAMES, tmp_path / rank, **streamed)
    # rank 0 began with the batch that rank 1 had come down to
    assert manifest(hub, "org/d")["batch_sizes"] == {str(number): 2 for number in range(4)}

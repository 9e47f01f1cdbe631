"""Threads that run ahead of the writer; and a batch that the memory is too small for, which is then remembered."""

import json
import threading
import time
from contextlib import closing

import pytest
import torch
from datasets import Features, Value
from huggingface_hub import snapshot_download

from support.hub_stream import CLASS_NAMES
from ubgen_pipeline import generate_dataset
from ubgen_pipeline.dataset.shards import DatasetShards
from ubgen_pipeline.generation.dataset_rows import DatasetRows
from ubgen_pipeline.generation.regenerate import main
from ubgen_pipeline.generation.row_lookup import find_row
from ubgen_pipeline.generation.shard_writer import in_order_ahead, write_shards
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


def test_results_come_in_order_whichever_is_done_first():
    def slow_first(number):
        time.sleep(0.05 if number == 0 else 0)
        return number * number

    done = in_order_ahead(slow_first, range(20), num_threads=4, num_ahead=6)
    assert list(done) == [number * number for number in range(20)]


def test_runs_ahead_but_not_further_than_asked():
    started = []
    results = in_order_ahead(started.append, range(100), num_threads=2, num_ahead=5)
    next(results)
    deadline = time.monotonic() + 5
    while len(started) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(started) == 5
    results.close()


def test_calls_overlap():
    both = threading.Barrier(2, timeout=5)
    assert len(list(in_order_ahead(lambda _: both.wait(), range(4), num_threads=2, num_ahead=4))) == 4


def test_an_exception_comes_in_its_place():
    def fails_at_three(number):
        return 1 // (number - 3)

    taken = []
    with pytest.raises(ZeroDivisionError):
        for result in in_order_ahead(fails_at_three, range(9), num_threads=3, num_ahead=6):
            taken.append(result)
    assert len(taken) == 3


def test_closing_early_leaves_no_thread():
    before = threading.active_count()
    with closing(in_order_ahead(lambda number: number, range(1000), num_threads=3, num_ahead=4)) as results:
        assert next(results) == 0
    assert threading.active_count() == before


def test_shards_are_written_in_whole_batches_of_their_own(tmp_path):
    features = Features({"index": Value("int64")})
    shards = DatasetShards(tmp_path / "d", {"batch_size": 3}, 10, 4)
    shards.open()
    asked, counted, written = [], [], []

    def rows_of(indices, batch_size):
        asked.append((indices, batch_size))
        return [{"index": index} for index in indices]

    write_shards(
        shards, [2, 0], rows_of, features, batch_size=3, num_threads=1, report=counted.append, written=written.append
    )
    # no batch reaches over the end of its shard
    assert asked == [(range(8, 10), 3), (range(0, 3), 3), (range(3, 4), 3)]
    assert counted == [2, 3, 1] and [shard.number for shard in written] == [2, 0]
    assert [shard.number for shard in shards.missing()] == [1]


def test_other_errors_pass_and_leave_no_shard(tmp_path):
    shards = DatasetShards(tmp_path / "d", {"batch_size": 2}, 4, 2)
    shards.open()

    def rows_of(indices, batch_size):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        write_shards(
            shards,
            [0],
            rows_of,
            Features({"index": Value("int64")}),
            batch_size=2,
            num_threads=1,
            report=lambda n: None,
        )
    assert len(shards.missing()) == 2 and not list((tmp_path / "d").rglob("*.tmp"))

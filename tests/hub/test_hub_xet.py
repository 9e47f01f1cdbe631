"""The flows to the Hub with Xet on: hf_xet itself uploads and downloads.

Most tests use the content store that hf_xet itself keeps on the disk for a ``local://`` address, which the loopback
Hub hands out. The last two use a store behind Xet's HTTP interface; reading without Xet is left to the others there.
"""

import os
import subprocess
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import HfApi

from support import SUPPORT
from support.hub_stream import shards_of, stream
from support.warm_python import warm_programs
from ubgen_training.reward_training.hub_push import HubModel

COMMIT = "/commit/main$"
STREAM = SUPPORT / "hub_stream.py"


@pytest.fixture
def hub(start_hub, tmp_path):
    hub = start_hub(cas=tmp_path / "cas")
    yield hub
    requests = [(method, path) for method, path in hub.faults.requests if method == "PUT" or "xet-write" in path]
    assert requests and not [path for method, path in requests if method == "PUT"], "files went by LFS"


def titles(hub, kind, repo_id):
    return [commit.title for commit in hub.repositories[kind, repo_id].history("main")][::-1]


def assert_whole(hub, repo_id, tmp_path):
    assert load_dataset(repo_id, split="train")["index"][:] == list(range(24))
    assert [row["index"] for row in load_dataset(repo_id, split="train", streaming=True)] == list(range(24))
    stream(tmp_path / "kept", "org/kept", keep_local=True)
    local = shards_of(tmp_path / "kept", 6)
    for shard in local.shards:
        name = f"data/{local.file(shard).name}"
        downloaded = HfApi().hf_hub_download(repo_id, name, repo_type="dataset")
        assert Path(downloaded).read_bytes() == local.file(shard).read_bytes()


def test_a_group_is_one_commit_and_a_lost_answer_repeats_nothing(hub, tmp_path):
    hub.faults.add(COMMIT, cut="after")
    hub.faults.add("xet-write-token", status=503)
    stream(tmp_path / "d", "org/d")
    added = ["Add shards 0, 1 of 6", "Add shards 2, 3 of 6", "Add shards 4, 5 of 6"]
    assert titles(hub, "dataset", "org/d") == ["initial commit", *added]
    assert not list((tmp_path / "d").rglob("*.parquet"))
    assert_whole(hub, "org/d", tmp_path)


def test_killed_and_run_again(hub, tmp_path):
    process = None
    hub.faults.add(COMMIT, cut="before", skip=1, call=lambda path: process.kill())
    command = [str(warm_programs() / "python"), str(STREAM), str(tmp_path / "d"), "org/d", "6", "2", "0", "0", "1"]
    process = subprocess.Popen(command, env=os.environ)
    assert process.wait() == -9
    assert stream(tmp_path / "d", "org/d") == [4, 5]
    assert_whole(hub, "org/d", tmp_path)


def test_a_model(hub, tmp_path):
    weights = os.urandom(200_000)
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(weights)
    (tmp_path / "grid.png").write_bytes(os.urandom(1000))
    model = HubModel("org/lora")
    model.open()
    for number in (1, 2):
        model.push(
            tmp_path, "---\nlicense: mit\n---\n", {f"samples/{number}.png": tmp_path / "grid.png"}, f"push {number}"
        )
    assert titles(hub, "model", "org/lora") == ["initial commit", "push 1", "push 2"]
    assert Path(HfApi().hf_hub_download("org/lora", "pytorch_lora_weights.safetensors")).read_bytes() == weights
    names = {"README.md", "pytorch_lora_weights.safetensors", "samples/2.png"}
    assert set(HfApi().list_repo_files("org/lora")) == {".gitattributes", *names}


@pytest.fixture
def served(start_hub, tmp_path, monkeypatch):
    """A loopback Hub with the content store behind HTTP, and a client that does not wait long between attempts."""
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "20ms")
    hub = start_hub(cas=tmp_path / "cas", xet_over_http=True)
    yield hub
    paths = [path for _, path in hub.faults.requests]
    for address in ("xorbs", "shards", "reconstructions"):
        assert [path for path in paths if path.startswith(f"/cas/v1/{address}")], address
    assert not [path for path in paths if path.startswith("/objects/")], "files went by LFS"


def assert_downloads_whole(repo_id, tmp_path):
    stream(tmp_path / "kept", "org/kept", keep_local=True)
    local = shards_of(tmp_path / "kept", 6)
    for shard in local.shards:
        name = f"data/{local.file(shard).name}"
        downloaded = HfApi().hf_hub_download(repo_id, name, repo_type="dataset")
        assert Path(downloaded).read_bytes() == local.file(shard).read_bytes()


def test_over_http_faults_of_the_store_lose_nothing(served, tmp_path):
    for path in ("/cas/v1/xorbs/", "/cas/v1/shards", "/cas/v1/reconstructions/", "/cas/xorb/"):
        served.faults.add(path, status=503)
        served.faults.add(path, cut="before")
    stream(tmp_path / "d", "org/d")
    added = ["Add shards 0, 1 of 6", "Add shards 2, 3 of 6", "Add shards 4, 5 of 6"]
    assert titles(served, "dataset", "org/d") == ["initial commit", *added]
    assert_downloads_whole("org/d", tmp_path)
    assert all(fault.struck for fault in served.faults.faults)


def test_over_http_killed_and_run_again(served, tmp_path):
    process = None
    served.faults.add("/cas/v1/shards", cut="before", skip=1, call=lambda path: process.kill())
    command = [str(warm_programs() / "python"), str(STREAM), str(tmp_path / "d"), "org/d", "6", "2", "0", "0", "1"]
    process = subprocess.Popen(command, env=os.environ)
    assert process.wait() == -9
    assert len(titles(served, "dataset", "org/d")) == 2
    stream(tmp_path / "d", "org/d")
    assert len(titles(served, "dataset", "org/d")) == 4
    assert_downloads_whole("org/d", tmp_path)

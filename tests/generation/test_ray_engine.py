"""Generation on a Ray cluster of two workers, one of which is killed; needs the optional extra."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.object_store import BUCKET, loopback_store
from ubgen_pipeline.files.places import as_place
from ubgen_pipeline.generation.generate import main

pytest.importorskip("ray")
SHORT = ["--samples-per-class", "6", "--samples-per-shard", "3", "--num-inference-steps", "4", "--batch-size", "1"]


def _arguments(model, folder, *more):
    classes = ["--class-names", "circle", "star", "--threads", "1", "--device", "cpu"]
    return ["--model", model, *classes, "--output-dir", str(folder), *SHORT, *more]


def _hashes(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(folder, "data").iterdir()}


def _worker_at_work(folder, deadline):
    """The process that writes a shard; its number stands in the name of the file that it has begun."""
    while time.monotonic() < deadline:
        for file in Path(folder, ".ubgen").glob("*.parquet.*.tmp"):
            return int(file.name.split(".")[-2].partition("-")[0])
        time.sleep(0.005)
    raise AssertionError("no worker began a shard")


def test_a_killed_workers_shard_is_drawn_again_to_the_same_bytes(random_mini_model, tmp_path):
    assert main(_arguments(random_mini_model, tmp_path / "one")) == 0
    command = [sys.executable, "-m", "ubgen_pipeline", "generate"]
    command += _arguments(random_mini_model, tmp_path / "two", "--engine", "ray", "--num-workers", "2")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        os.kill(_worker_at_work(tmp_path / "two", time.monotonic() + 240), signal.SIGKILL)
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert "was lost; another takes over" in error
    assert _hashes(tmp_path / "two") == _hashes(tmp_path / "one")
    assert not list((tmp_path / "two").rglob("*.tmp"))


def test_no_cluster_at_the_address(random_mini_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    assert main([*_arguments(random_mini_model, tmp_path / "d", "--engine", "ray")]) == 2
    assert "RAY_ADDRESS is 'nowhere', where no cluster answers" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_engine_flags(random_mini_model, tmp_path, capsys):
    assert main(_arguments(random_mini_model, tmp_path / "d", "--engine", "spark")) == 2
    assert "engine is 'spark'; choose one of local, ray" in capsys.readouterr().err
    assert main(_arguments(random_mini_model, tmp_path / "d", "--num-workers", "2")) == 2
    assert "num_workers is given without engine ray" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["store", "hub"])
def test_workers_without_a_common_folder(random_mini_model, tmp_path, request, place):
    assert main(_arguments(random_mini_model, tmp_path / "one")) == 0
    arguments = _arguments(random_mini_model, "", "--engine", "ray", "--num-workers", "2")
    at = arguments.index("--output-dir")
    if place == "hub":
        hub = request.getfixturevalue("hub")
        # the folder of each worker is its own
        arguments[at : at + 2] = ["--hub-dataset-id", "org/d", "--shards-per-commit", "2"]
        environment = dict(os.environ)
        _generate(arguments, environment)
        tree = hub.repositories.tree("dataset", "org/d")
        found = {path.removeprefix("data/"): sha for path, sha in tree.items() if path.startswith("data/")}
    else:
        with loopback_store() as variables, pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            arguments[at + 1] = f"s3://{BUCKET}/ray"
            _generate(arguments, dict(os.environ))
            files = list((as_place(arguments[at + 1]) / "data").iterdir())
            found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert found == _hashes(tmp_path / "one")


def _generate(arguments, environment):
    command = [sys.executable, "-m", "ubgen_pipeline", "generate", *arguments]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, timeout=400)
    assert ended.returncode == 0 and "images/s in the loop" in ended.stderr, ended.stderr

"""Generation on real Ray: two nodes on this machine, whose workers and driver are killed; needs the optional extra."""

import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.hub_faults import BEFORE
from support.object_store import BUCKET, ENVIRONMENT, loopback_store
from support.ray_cluster import RayCluster, client, kill_client
from ubgen_pipeline.files.places import as_place
from ubgen_pipeline.generation.generate import main

if find_spec("ray") is None:
    pytest.skip("ray is not installed", allow_module_level=True)

SHORT = ["--samples-per-class", "6", "--samples-per-shard", "2", "--num-inference-steps", "4", "--batch-size", "1"]
GENERATE = [sys.executable, "-m", "ubgen_pipeline", "generate"]


def _flags(model, *more):
    classes = ["--class-names", "circle", "star", "--threads", "1"]
    return ["--model", model, *classes, *SHORT, *more]


def _on_ray(model, *more):
    return [*GENERATE, *_flags(model, "--engine", "ray", "--num-workers", "2", *more)]


def _hashes(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (folder / "data").iterdir()}


@pytest.fixture(scope="module")
def one_process(random_mini_model, tmp_path_factory):
    """Hashes of the files of the dataset that one process draws."""
    folder = tmp_path_factory.mktemp("one")
    assert main(_flags(random_mini_model, "--output-dir", str(folder), "--device", "cpu")) == 0
    return _hashes(folder)


@pytest.fixture(scope="module")
def cluster():
    """A head that runs no workers, and two nodes with room for one each."""
    with RayCluster() as running:
        for _ in range(2):
            # credentials are those of the node's environment
            running.add_node("--num-cpus", "1", **ENVIRONMENT)
        running.wait_for_nodes()
        yield running


def _run(cluster, command, **variables):
    environment = {**cluster.environment, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=540)


def _worker_at_work(folder, process, deadline):
    """The process that writes a shard; its number stands in the name of the file that it has begun."""
    while time.monotonic() < deadline:
        for file in Path(folder, ".ubgen").glob("*.parquet.*.tmp"):
            return int(file.name.split(".")[-2].partition("-")[0])
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    raise AssertionError("no worker began a shard")


def test_a_worker_and_then_the_driver_are_killed(cluster, random_mini_model, one_process, tmp_path):
    folder = tmp_path / "d"
    command = _on_ray(random_mini_model, "--output-dir", str(folder))
    environment = {**cluster.environment, "UBGEN_PROGRESS_SECONDS": "0"}
    deadline = time.monotonic() + 240
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            os.kill(_worker_at_work(folder, process, deadline), signal.SIGKILL)
            while len(list(folder.glob(".ubgen/shard-*.json"))) < 3:
                assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
                time.sleep(0.01)
        finally:
            process.kill()
        said = process.stderr.read()
    assert "was lost; another takes over" in said
    assert "2 workers on the Ray cluster, each with 1 CPU" in said
    assert re.search(r"ubgen: \d+/12 images, \d of 2 workers, [\d.]+ images/s, 00:\d\d:\d\d left\n", said)
    assert len(_hashes(folder)) < 6
    resumed = _run(cluster, command)
    assert resumed.returncode == 0, resumed.stderr
    assert "images/s in the loop" in resumed.stderr
    assert _hashes(folder) == one_process
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.skipif(find_spec("aiohttp_cors") is None, reason="ray[default], which serves jobs, is not installed")
def test_a_job_whose_worker_is_killed_in_a_commit(hub, random_mini_model, one_process, tmp_path):
    """Its shards are drawn again; names of files are those of the folder that was submitted."""
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "names.txt").write_text("circle\nstar\n")
    killed = []
    fault = hub.faults.add(
        "/commit/main$", cut=BEFORE, call=lambda path: killed.append(kill_client(fault.client_port))
    )
    command = _on_ray(random_mini_model, "--hub-dataset-id", "org/d", "--shards-per-commit", "2")
    at = command.index("--class-names")
    command[at : at + 3] = ["--classes", "names.txt"]
    variables = {name: value for name, value in os.environ.items() if name.startswith("HF_")}
    with RayCluster(num_cpus=2, has_jobs=True) as cluster:
        ended = cluster.run_job(tmp_path / "job", variables, command)
    assert ended.returncode == 0, ended.stdout
    assert "org/d: 6 shards made here" in ended.stdout and len(killed) == 1
    tree = hub.repositories.tree("dataset", "org/d")
    found = {path.removeprefix("data/"): sha for path, sha in tree.items() if path.startswith("data/")}
    assert found == one_process


def test_workers_that_share_a_store_are_killed_while_they_send(cluster, random_mini_model, one_process):
    """One while it sends a shard, and one that has sent it and not yet its mark."""
    left, killed = ["data/train-00001-of-00006.parquet", ".ubgen/shard-00002.json"], []

    def refuses(method, path, port):
        name = next((name for name in left if method == "PUT" and path.endswith(name)), None)
        if name is not None:
            left.remove(name)
            killed.append(kill_client(port))
        return name is not None

    with loopback_store(refuses) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        address = f"s3://{BUCKET}/ray"
        job = json.dumps({"runtime_env": {"env_vars": {"AWS_ENDPOINT_URL": variables["AWS_ENDPOINT_URL"]}}})
        command = _on_ray(random_mini_model, "--output-dir", address)
        ended = _run(cluster, command, RAY_JOB_CONFIG_JSON_ENV_VAR=job, **variables)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.count("was lost; another takes over") == 2 and len(set(killed)) == 2
        # what Ray says of the lost ones is not among the results
        assert ended.stdout.startswith("images") and len(ended.stdout.splitlines()) == 2
        assert _hashes(as_place(address)) == one_process


def test_a_node_is_lost_while_it_draws(random_mini_model, one_process, tmp_path):
    """All of its processes at once; the other node draws what is left."""
    folder = tmp_path / "d"
    with RayCluster() as cluster:
        for _ in range(2):
            cluster.add_node("--num-cpus", "1")
        cluster.wait_for_nodes()
        command = _on_ray(random_mini_model, "--output-dir", str(folder))
        with subprocess.Popen(command, env=cluster.environment, stderr=subprocess.PIPE, text=True) as process:
            try:
                cluster.kill_node_of(_worker_at_work(folder, process, time.monotonic() + 240))
                _, said = process.communicate(timeout=540)
            finally:
                process.kill()
    assert process.returncode == 0, said
    assert "was lost; another takes over" in said
    assert _hashes(folder) == one_process


def test_all_nodes_are_lost_in_commits_and_another_one_comes(random_mini_model, one_process):
    """One while it sends a shard, the other once it has sent one and not yet its mark; none is left to draw."""
    left = ["data/train-00001-of-00006.parquet", ".ubgen/shard-00000.json"]

    def refuses(method, path, port):
        name = next((name for name in left if method == "PUT" and path.endswith(name)), None)
        if name is not None:
            left.remove(name)
            cluster.kill_node_of(client(port))
        return name is not None

    with RayCluster() as cluster, loopback_store(refuses) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        for _ in range(2):
            cluster.add_node("--num-cpus", "1", **variables)
        cluster.wait_for_nodes()
        address = f"s3://{BUCKET}/nodes"
        command = _on_ray(random_mini_model, "--output-dir", address)
        environment, lines = {**cluster.environment, **variables}, []
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                for line in process.stderr:
                    lines.append(line)
                    if "waiting for the Ray cluster to start a worker" in line and not left:
                        break
                cluster.add_node("--num-cpus", "2", **variables)
                _, said = process.communicate(timeout=540)
            finally:
                process.kill()
        said = "".join(lines) + said
        assert process.returncode == 0, said
        assert said.count("was lost; another takes over") == 2
        assert "a node that went away, may leave no room for one that takes 1 CPU" in said
        assert _hashes(as_place(address)) == one_process


def test_what_a_cluster_has_no_room_for_and_another_version(cluster, random_mini_model, tmp_path):
    flags = ["--output-dir", str(tmp_path / "d")]
    # found by the file that `ray start` leaves
    beside = {"RAY_ADDRESS": "", "RAY_TMPDIR": str(cluster.folder)}
    ended = _run(cluster, _on_ray(random_mini_model, *flags, "--worker-cpus", "2"), **beside)
    assert ended.returncode == 2
    assert "has 0 GPUs and 2 CPUs on 3 nodes, where no workers fit that take 2 CPUs each" in ended.stderr
    metadata = tmp_path / "other" / "pillow-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 1.0\n")
    path = os.pathsep.join([str(tmp_path / "other"), os.environ.get("PYTHONPATH", "")])
    cluster.add_node("--num-cpus", "2", "--num-gpus", "1", PYTHONPATH=path)
    try:
        cluster.wait_for_nodes()
        # the driver has no GPU, so it is for the cluster to decide; only that node has one, for two workers
        ended = _run(cluster, _on_ray(random_mini_model, *flags, "--worker-gpus", "0.5"))
    finally:
        cluster.remove_node()
    assert ended.returncode == 2
    assert "2 workers on the Ray cluster, each with 0.5 GPU and 1 CPU" in ended.stderr
    assert f"a worker of the Ray cluster, on {platform.node()}, has pillow 1.0 and the driver" in ended.stderr
    assert not (tmp_path / "d").exists()


def test_a_cluster_that_the_run_starts(random_mini_model, one_process, tmp_path):
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        environment = {**os.environ, "RAY_TMPDIR": folder, "HOME": folder, "RAY_worker_niceness": "0"}
        command = _on_ray(random_mini_model, "--output-dir", str(tmp_path / "d"))
        ended = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=540)
    assert ended.returncode == 0, ended.stderr
    assert _hashes(tmp_path / "d") == one_process


def test_no_cluster_at_the_address(random_mini_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    assert main(_flags(random_mini_model, "--engine", "ray", "--output-dir", str(tmp_path / "d"))) == 2
    assert "RAY_ADDRESS is 'nowhere', where no cluster answers" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()

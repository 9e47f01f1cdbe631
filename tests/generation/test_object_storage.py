"""Datasets at addresses: the bytes of one process, whoever writes and is killed, and bad input before drawing."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import load_dataset

from support.object_store import BUCKET, loopback_store
from support.warm_python import warm_programs
from ubgen_pipeline.commands.console import say
from ubgen_pipeline.dataset.contact_sheets import main as show
from ubgen_pipeline.dataset.reader import StoredRows, open_rows
from ubgen_pipeline.files.places import as_place
from ubgen_pipeline.generation.generate import generate_dataset, main
from ubgen_pipeline.generation.row_lookup import find_row

SETTINGS = {
    "samples_per_class": 4, "samples_per_shard": 2, "num_inference_steps": 1, "batch_size": 2, "threads": 1,
    "device": "cpu",
}  # fmt: skip
NAMES = ["circle", "star"]


def _flags(model, address, **more):
    given = {**SETTINGS, "model": model, "output_dir": address, **more}
    flags = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return ["generate", "--class-names", *NAMES, *flags]


def _hashes(place):
    names = [f"data/{file.name}" for file in (as_place(place) / "data").iterdir()]
    found = {name: hashlib.sha256((as_place(place) / name).read_bytes()).hexdigest() for name in names}
    # how fast they were drawn is all that differs
    card = (as_place(place) / "README.md").read_text("utf-8")
    return found | {"README.md": re.sub(r"^## Throughput\n.*?(?=^## |\Z)", "", card, flags=re.DOTALL | re.MULTILINE)}


@pytest.fixture(scope="module")
def of_one_process(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "d"
    generate_dataset(NAMES, folder, model=tiny_model, **SETTINGS)
    return folder


@pytest.fixture(scope="module")
def store():
    with loopback_store() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


@pytest.fixture
def s3(store, request):
    """An address of its own for each test, and no kept connection of an earlier one."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    return f"s3://{BUCKET}/{request.node.name}"


def test_in_memory_the_bytes_are_those_in_a_folder(tiny_model, of_one_process):
    address = "memory://generate/d"
    dataset = generate_dataset(NAMES, address, model=tiny_model, **SETTINGS)
    assert _hashes(address) == _hashes(of_one_process)
    local = load_dataset(str(of_one_process), split="train")
    assert dataset.features == local.features and dataset["index"][:] == local["index"][:]


def test_memory_is_of_one_process(tiny_model, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(_flags(tiny_model, "memory://two/d")[1:]) == 2
    assert "output_dir is 'memory://two/d', which other processes do not see" in capsys.readouterr().err


def test_a_resume_draws_what_the_store_lacks(tiny_model, of_one_process, s3):
    generate_dataset(NAMES, s3, model=tiny_model, **SETTINGS)
    assert _hashes(s3) == _hashes(of_one_process)
    place = as_place(s3)
    for name in (".ubgen/shard-00001.json", "README.md"):
        (place / name).unlink()
    kept = (place / "data/train-00000-of-00004.parquet").stat().st_mtime
    generate_dataset(NAMES, s3, model=tiny_model, **SETTINGS)
    assert _hashes(s3) == _hashes(of_one_process)
    assert (place / "data/train-00000-of-00004.parquet").stat().st_mtime == kept
    # whatever reads datasets reads them there
    rows, local = StoredRows(s3), StoredRows(of_one_process)
    assert list(rows) == list(local) and rows.fingerprint() == local.fingerprint()
    assert [row["index"] for row in rows.rows([1, 5])] == [1, 5] and rows.class_names() == NAMES
    assert open_rows(s3)["index"][:] == [row["index"] for row in open_rows(s3, streaming=True)] == list(range(8))
    assert find_row(s3, 3).batch == find_row(str(of_one_process), 3).batch


def _worker(environment, model, address, rank, folder, **more):
    folder.mkdir(exist_ok=True)
    (folder / "tmp").mkdir(exist_ok=True)
    own = {"RANK": str(rank), "WORLD_SIZE": "2", "TMPDIR": str(folder / "tmp"), "HF_HOME": str(folder / "home")}
    return subprocess.Popen(
        [str(warm_programs() / "ubgen"), *_flags(model, address, **more)],
        cwd=folder,
        env={**os.environ, **environment, **own, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_two_workers_without_a_common_folder_one_is_killed(tiny_model, of_one_process, s3, tmp_path, store):
    """Ranks share nothing but the store; the killed one's run is started again, and resumes."""
    workers = [_worker(store, tiny_model, s3, rank, tmp_path / f"{rank}") for rank in range(2)]
    try:
        deadline = time.monotonic() + 240
        while not list((tmp_path / "1" / "tmp").glob("ubgen-*/*.parquet")):
            assert workers[1].poll() is None and time.monotonic() < deadline, workers[1].stderr.read()
            time.sleep(0.005)
        os.kill(workers[1].pid, signal.SIGKILL)
        workers[1].communicate()
        workers[1] = _worker(store, tiny_model, s3, 1, tmp_path / "1")
        for worker in workers:
            _, error = worker.communicate(timeout=240)
            assert worker.returncode == 0, error
    finally:
        for worker in workers:
            worker.kill()
    assert _hashes(s3) == _hashes(of_one_process)
    assert not any(path.name == "data" for rank in range(2) for path in Path(tmp_path, f"{rank}").rglob("data"))


def test_a_store_that_goes_away_while_the_card_is_made(tiny_model, of_one_process, tmp_path, capsys, monkeypatch):
    """Whatever is asked of it last: nothing is left out of the card, and nothing ends the run."""
    refused, phases = [], ["drawing"]

    def refuses(method, path, port):
        # the report is written before the card
        if path.endswith("throughput.txt") and phases[-1] == "drawing":
            phases.append("card")
        if phases[-1] != "card" or (method, path) in refused:
            return False
        # each once
        refused.append((method, path))
        return True

    monkeypatch.setattr("ubgen_pipeline.dataset.shards.pause", lambda seconds, why: say(f"waiting for {why}"))
    # the store's own library does not try again
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with loopback_store(refuses) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        address = f"s3://{BUCKET}/card"
        assert main(_flags(tiny_model, address)[1:]) == 0
        phases.append("comparing")
        assert _hashes(address) == _hashes(of_one_process)
        assert "waiting for" in capsys.readouterr().err and ("PUT", f"/{BUCKET}/card/README.md") in refused
    # nobody is there any more: a command that reads says so in a line
    assert show([address, "--output-dir", str(tmp_path / "sheets")]) == 2
    error = capsys.readouterr().err
    assert "a store could not be reached (Could not connect" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "there are no credentials"),
        ({"bucket": "not-there"}, "does not exist"),
        ({"holds": "notes.txt"}, "holds something else ('notes.txt')"),
    ],
)
def test_bad_stores_are_found_before_a_model_is_loaded(tiny_model, s3, monkeypatch, capsys, change, message):
    address = s3.replace(BUCKET, change.get("bucket", BUCKET)).partition("[")[0]
    if "holds" in change:
        (as_place(address) / change["holds"]).write_text("mine")
    for name in change.keys() & {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}:
        monkeypatch.delenv(name)
    monkeypatch.setattr("ubgen_pipeline.generation.dataset_run.DatasetRun.prepare", _unexpected)
    assert main(_flags(tiny_model, address)[1:]) == 2
    error = capsys.readouterr().err
    assert f"output_dir is {address!r}" in error and message in error and "loopback-secret" not in error


def _unexpected(run):
    raise AssertionError("something was loaded")

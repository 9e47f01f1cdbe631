"""Streaming a dataset to a loopback Hub: kills, faults and several processes lose nothing and repeat nothing."""

import itertools
import os
import subprocess
import time

import pytest
from datasets import load_dataset
from huggingface_hub import HfApi

from support import SUPPORT
from support.hub_faults import AFTER, BEFORE
from support.hub_server import READ_TOKEN, WRITE_TOKEN
from support.hub_stream import CLASS_NAMES, ROWS_PER_SHARD, shards_of, stream, write
from support.warm_python import warm_programs
from ubgen_pipeline.dataset.card import DatasetCardMaker
from ubgen_pipeline.hub import access as hub_access
from ubgen_pipeline.hub.streamed_dataset import COMMITS_PER_HOUR, CommitBudget, HubDataset
from ubgen_pipeline.models.sources import GeneratorSource

STREAM = SUPPORT / "hub_stream.py"
COMMIT, BATCH, OBJECT = r"/commit/main$", r"/info/lfs/objects/batch$", r"^/objects/[0-9a-f]"

# tree and card of a run that nothing interrupted; the same on every Hub
UNINTERRUPTED = {}


@pytest.fixture
def waits(monkeypatch):
    """The waits asked for, which nobody waits for."""
    asked = []
    monkeypatch.setattr(hub_access.time, "sleep", asked.append)
    return asked


def tree(hub, repo_id):
    """Path to SHA-256, less what differs by the repository's name."""
    return {path: sha for path, sha in hub.repositories.tree("dataset", repo_id).items() if path != "README.md"}


def card(hub, repo_id):
    return hub.repositories.read("dataset", repo_id, "README.md").decode().replace(repo_id, "NAME")


def history(hub, repo_id):
    return list(hub.repositories["dataset", repo_id].history("main"))


def assert_whole(hub, repo_id, tmp_path):
    """The dataset equals an uninterrupted one, and every shard entered in one commit only."""
    if not UNINTERRUPTED:
        stream(tmp_path / "whole", "org/whole")
        UNINTERRUPTED.update(tree=tree(hub, "org/whole"), card=card(hub, "org/whole"))
    assert {"tree": tree(hub, repo_id), "card": card(hub, repo_id)} == UNINTERRUPTED
    for before, after in itertools.pairwise(history(hub, repo_id)[::-1]):
        assert any(path.startswith("data/") for path in set(after.files) - set(before.files))
        assert set(before.files) <= set(after.files)


def test_groups_of_shards_go_up_and_leave(hub, tmp_path):
    assert stream(tmp_path / "d", "org/d") == list(range(6))
    assert [commit.title for commit in history(hub, "org/d")][::-1] == [
        "initial commit",
        "Add shards 0, 1 of 6",
        "Add shards 2, 3 of 6",
        "Add shards 4, 5 of 6",
    ]
    assert not list((tmp_path / "d").rglob("*.parquet"))
    commits = len(history(hub, "org/d"))
    assert stream(tmp_path / "elsewhere", "org/d") == [] and len(history(hub, "org/d")) == commits
    stream(tmp_path / "kept", "org/kept", keep_local=True)
    assert len(list((tmp_path / "kept").rglob("*.parquet"))) == 6
    assert tree(hub, "org/kept") == tree(hub, "org/d") and card(hub, "org/kept") == card(hub, "org/d")


def test_every_commit_loads(hub, tmp_path):
    stream(tmp_path / "d", "org/d")
    for number, commit in enumerate(history(hub, "org/d")[::-1][1:], 1):
        streamed = load_dataset("org/d", split="train", streaming=True, revision=commit.oid)
        rows = list(streamed)
        assert [row["index"] for row in rows] == list(range(2 * ROWS_PER_SHARD * number))
        whole = load_dataset("org/d", split="train", revision=commit.oid)
        assert whole["index"][:] == [row["index"] for row in rows]
        assert whole.features["label"].names == CLASS_NAMES
        text = hub.repositories.object(commit.files["README.md"].sha256).read_text()
        assert ("Not finished" in text) == (number < 3) and ("num_examples" in text) == (number == 3)


KILLS = {
    "with the repository made": {"path": "repos/create", "cut": AFTER},
    "within a file": {"path": OBJECT, "method": "PUT", "cut": BEFORE, "skip": 2},
    "with a file sent": {"path": OBJECT, "method": "PUT", "cut": AFTER, "skip": 3},
    "before the commit": {"path": COMMIT, "cut": BEFORE, "skip": 1},
    "with the commit made": {"path": COMMIT, "cut": AFTER, "skip": 1},
}


@pytest.mark.parametrize("point", KILLS)
def test_killed_anywhere_and_run_again(hub, tmp_path, point):
    command = [str(warm_programs() / "python"), str(STREAM), str(tmp_path / "d"), "org/d", "6", "2", "0", "0", "1"]
    process = None
    fault = hub.faults.add(**KILLS[point], call=lambda path: process.kill())
    process = subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE)
    assert process.wait() == -9, process.stderr.read().decode()
    assert fault.struck == 1
    made = stream(tmp_path / "d", "org/d")
    # only a kill before anything was finished leaves everything to be made
    assert len(made) < 6 or "repository" in point
    assert_whole(hub, "org/d", tmp_path)
    assert not list((tmp_path / "d").rglob("*.parquet"))


def test_killed_and_run_again_elsewhere(hub, tmp_path):
    """What was not yet on the Hub is made again from nothing but the Hub's own state."""
    command = [str(warm_programs() / "python"), str(STREAM), str(tmp_path / "lost"), "org/d", "6", "2", "0", "0", "1"]
    process = None
    hub.faults.add(COMMIT, cut=AFTER, skip=1, call=lambda path: process.kill())
    process = subprocess.Popen(command, env=os.environ)
    assert process.wait() == -9
    assert stream(tmp_path / "new", "org/d") == [4, 5]
    assert_whole(hub, "org/d", tmp_path)


@pytest.mark.parametrize("fault", [{"status": 503}, {"cut": AFTER}, {"status": 429, "retry_after": 7}], ids=str)
def test_passing_faults(hub, tmp_path, waits, monkeypatch, fault):
    # huggingface_hub's own waits too
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    paths = ["repos/create", "whoami", r"/tree/", r"/commits/main", "preupload", BATCH, OBJECT, COMMIT]
    faults = [hub.faults.add(path, count=2, **fault) for path in paths]
    stream(tmp_path / "d", "org/d")
    assert [fault.struck for fault in faults] == [2] * len(paths)
    assert_whole(hub, "org/d", tmp_path)
    if "retry_after" in fault:
        assert waits and all(wait >= 7 for wait in waits)


@pytest.mark.parametrize("status", [409, 412, 500])
def test_commit_refused_for_now(hub, tmp_path, waits, status):
    hub.faults.add(COMMIT, status=status, count=3)
    stream(tmp_path / "d", "org/d")
    assert_whole(hub, "org/d", tmp_path)


def test_slow_answers(hub, tmp_path):
    hub.faults.add(COMMIT, delay=0.5, count=2)
    hub.faults.add(OBJECT, delay=0.3, count=2)
    stream(tmp_path / "d", "org/d")
    assert_whole(hub, "org/d", tmp_path)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        (COMMIT, 401, "hf auth login"),
        (COMMIT, 403, "may not write"),
        (COMMIT, 404, "does not exist"),
        (BATCH, 403, "may not write"),
        (COMMIT, 503, "run the same command again"),
        (COMMIT, 412, "kept changing"),
    ],
)
def test_lasting_faults_leave_what_is_finished(hub, tmp_path, waits, monkeypatch, path, status, message):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    monkeypatch.setattr(hub_access, "MAX_CONTENTIONS", 4)
    fault = hub.faults.add(path, status=status, count=10_000, skip=1)
    with pytest.raises(ValueError, match=message) as raised:
        stream(tmp_path / "d", "org/d")
    assert WRITE_TOKEN not in str(raised.value)
    assert len(list((tmp_path / "d").rglob("*.parquet"))) == 2
    fault.count = 0
    assert stream(tmp_path / "d", "org/d") == [4, 5]
    assert_whole(hub, "org/d", tmp_path)


def test_two_processes_lose_no_commit(hub, tmp_path):
    # the first commit of each waits until both have looked at the same head
    hub.faults.add(COMMIT, together=2, count=2)
    processes = [
        subprocess.Popen(
            [str(warm_programs() / "python"), str(STREAM), str(tmp_path / "d"), "org/d", "6", "1", "0", rank, "2"],
            env=os.environ,
        )
        for rank in ("0", "1")
    ]
    assert [process.wait(100) for process in processes] == [0, 0]
    commits = [path for method, path in hub.faults.requests if path.endswith("/commit/main")]
    assert len(commits) > len(history(hub, "org/d")) - 1, "no two commits met: the test shows nothing"
    assert_whole(hub, "org/d", tmp_path)


def test_private(hub, tmp_path):
    stream(tmp_path / "d", "org/d", private=True)
    assert hub.repositories["dataset", "org/d"].private
    assert load_dataset("org/d", split="train").num_rows == 24
    HfApi().create_repo("org/public", repo_type="dataset")
    with pytest.raises(ValueError, match="public"):
        stream(tmp_path / "e", "org/public", private=True)


def test_foreign_content_is_refused(hub, tmp_path):
    api = HfApi()
    api.create_repo("org/d", repo_type="dataset")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="notes.txt", repo_id="org/d", repo_type="dataset")
    with pytest.raises(ValueError, match=r"holds something else \('notes.txt'\)"):
        stream(tmp_path / "d", "org/d")
    stream(tmp_path / "e", "org/e")
    with pytest.raises(ValueError, match="seed was 7 there and is 8 now"):
        stream(tmp_path / "f", "org/e", seed=8)
    with pytest.raises(ValueError, match="num_samples was 24 there and is 8 now"):
        stream(tmp_path / "f", "org/e", num_shards=2)
    assert not (tmp_path / "f").exists()


def test_rights_are_checked_first(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(ValueError, match="may only read"):
        stream(tmp_path / "d", "org/d")
    monkeypatch.setenv("HF_TOKEN", "hf_unknowntokenunknowntoken")
    with pytest.raises(ValueError, match="not valid") as raised:
        stream(tmp_path / "d", "org/d")
    assert "hf_unknown" not in str(raised.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="no token"):
        stream(tmp_path / "d", "org/d")
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    with pytest.raises(ValueError, match="may not write"):
        stream(tmp_path / "d", "stranger/d")
    for name in ("d", "org/a b", "org/a--b", "org/d/e", "org/../d", "org/d.git", "-org/d", ""):
        with pytest.raises(ValueError, match="hub_dataset_id is"):
            stream(tmp_path / "d", name)
    assert not (tmp_path / "d").exists()


def test_the_token_is_written_nowhere(hub, tmp_path, capfd):
    hub.faults.add(COMMIT, status=503)
    stream(tmp_path / "d", "org/d", keep_local=True)
    shown = capfd.readouterr()
    assert WRITE_TOKEN not in shown.out + shown.err and "503" in shown.err
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert not [file for file in files if WRITE_TOKEN.encode() in file.read_bytes()]


def test_commit_budget():
    now = [0.0]
    budget = CommitBudget(2, clock=lambda: now[0])
    budget.others.extend([-3000.0] * 20)
    for _ in range(40):
        assert budget.wait() == 0
        budget.spend()
        now[0] += 1
    assert budget.wait() == pytest.approx(600 - 40)
    now[0] = 601
    assert budget.wait() == 0 and len(budget.own) == 40
    assert CommitBudget(1000).wait() == 0
    assert COMMITS_PER_HOUR < 128


def test_no_more_than_a_hundred_commits_an_hour(hub, tmp_path, monkeypatch):
    """Finished shards wait for each other where the commits of the hour are spent."""
    shards = shards_of(tmp_path / "d", 4)
    maker = DatasetCardMaker(shards, CLASS_NAMES, GeneratorSource("mini"), [0, 1])
    dataset = HubDataset("org/d", shards, maker, shards_per_commit=1)
    shards.open()
    dataset.open()
    waited = []
    monkeypatch.setattr(
        "ubgen_pipeline.hub.streamed_dataset.time.sleep", lambda wait: (waited.append(wait), times.clear())
    )
    times = dataset.budget.others
    times.extend([time.time()] * COMMITS_PER_HOUR)
    for shard in shards.shards:
        write(shards, shard.number)
        dataset.add(shard)
    assert len(history(hub, "org/d")) == 1 and not waited
    dataset.flush()
    assert history(hub, "org/d")[0].title == "Add shards 0, 1, 2, 3 of 4"
    assert waited == [pytest.approx(3600, abs=60)]


@pytest.mark.parametrize(("ahead", "num_counted"), [(-86400, 2), (0, 2), (86400, 0)])
def test_a_clock_that_differs_from_the_hubs_never_makes_a_wait_longer_than_an_hour(hub, tmp_path, ahead, num_counted):
    """The Hub tells when commits were made by its own clock; a machine that is ahead asks it too often at worst."""
    stream(tmp_path / "d", "org/d", shards_per_commit=6)
    shards = shards_of(tmp_path / "again", 6)
    dataset = HubDataset("org/d", shards, DatasetCardMaker(shards, CLASS_NAMES, GeneratorSource("mini"), [0, 1]))
    dataset.budget.clock = lambda: time.time() + ahead
    dataset.open()
    assert len(dataset.budget.others) == num_counted
    dataset.budget.others.extend([dataset.budget.clock()] * COMMITS_PER_HOUR)
    assert 3590 < dataset.budget.wait() <= 3600

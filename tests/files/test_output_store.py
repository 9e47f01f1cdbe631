"""Stores behind addresses: whole files by commit marks, late listings, faults that pass and those that do not."""

import errno

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from datasets import Features, Value
from s3fs.errors import translate_boto_error

from ubgen_pipeline.dataset.shards import DatasetShards
from ubgen_pipeline.files.output_store import AddressStore, LocalFolder, is_of_one_process, output_store

# what the library of S3 makes of the answer to a machine whose clock is wrong
_SKEWED = translate_boto_error(
    ClientError(
        {
            "Error": {
                "Code": "RequestTimeTooSkewed",
                "Message": "The difference between the request time and the server's time is too large.",
            }
        },
        "PutObject",
    )
)
FEATURES = Features({"index": Value("int64")})


@pytest.fixture(params=["memory", "file"])
def address(request, tmp_path):
    from fsspec.implementations.memory import MemoryFileSystem

    yield f"{request.param}://{tmp_path}/d"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def _no_pause(seconds, why):
    raise AssertionError(why)


def _shards(address, **settings):
    return DatasetShards(address, {"seed": 1, **settings}, num_samples=7, samples_per_shard=3)


def _write(shards, *numbers):
    for number in numbers:
        shard = shards.shards[number]
        shards.write(shard, ({"index": index} for index in range(shard.start, shard.stop)), FEATURES)


def _whole(address):
    shards = _shards(address)
    shards.check_may_write()
    shards.open()
    _write(shards, 0, 1, 2)
    return shards


def test_who_else_sees_what_is_written():
    here, there = output_store("~/d", _no_pause), output_store("memory://d", _no_pause)
    assert isinstance(here, LocalFolder) and isinstance(there, AddressStore)
    assert is_of_one_process(there) and not is_of_one_process(here)


def test_written_to_a_store_and_to_a_folder_the_shards_are_the_same(address, tmp_path):
    there, here = _whole(address), _whole(tmp_path / "here")
    assert not there.missing() and not there.is_finished()
    for one, other in zip(there.shards, here.shards, strict=True):
        assert there.file(one).read_bytes() == here.file(other).read_bytes()
    there.finish("# card\n")
    assert _shards(address).is_finished() and there.num_bytes() == here.num_bytes()
    # nothing but the dataset is there: no probe, no temporary file
    assert set(there.store.children()) == {".ubgen", "data", "README.md"}
    marks = {f"shard-0000{number}.json" for number in range(3)}
    assert set(there.store.children(".ubgen")) == {"manifest.json", *marks}


def test_a_shard_counts_once_its_mark_is_there_and_tells_its_size(address):
    shards = _shards(address)
    shards.open()
    with pytest.raises(OSError, match="No space"):
        shards.write(shards.shards[1], _failing(), FEATURES)
    assert not shards.store.children("data")
    _write(shards, 0, 1, 2)
    shards.store.delete(".ubgen/shard-00000.json")
    shards.store.write_text("data/train-00001-of-00003.parquet", "sent in part")
    # as a store without whole writes leaves it
    shards.store.write_text(".ubgen/shard-00002.json", '{"num_by')
    assert [shard.number for shard in _shards(address).missing()] == [0, 1, 2]
    _write(again := _shards(address), 0, 1, 2)
    assert not again.missing() and not _shards(address).missing()


def test_what_a_late_listing_lacks_is_asked_for_by_its_name(address, monkeypatch):
    _whole(address)
    monkeypatch.setattr(AddressStore, "sizes", lambda store, folder="": {})
    assert not _shards(address).missing()
    # a waiting process does not ask for each by its name again and again
    waiting = _shards(address, seed=1)
    monkeypatch.setattr(AddressStore, "read_texts", lambda store, names: {})
    assert len(waiting.missing()) == 3
    monkeypatch.undo()
    assert not waiting.missing()


def test_runs_with_other_settings_do_not_mix(address):
    first, second = _shards(address), _shards(address, seed=2)
    first.check()
    second.check()
    first.open()
    with pytest.raises(ValueError, match="seed was 1 there and is 2 now"):
        second.open()
    # where the store let both of them write a manifest
    second.store.write_text(".ubgen/manifest.json", second.manifest_text())
    with pytest.raises(ValueError, match="seed was 2 there and is 1 now"):
        _write(first, 0)
    _write(second, 0)
    second.store.write_text(".ubgen/manifest.json", first.manifest_text())
    assert [shard.number for shard in _shards(address).missing()] == [0, 1, 2]


def test_a_store_that_holds_something_else(address):
    store = output_store(address, _no_pause)
    store.make()
    store.write_text("notes.txt", "mine")
    with pytest.raises(ValueError, match=r"something else .*notes\.txt"):
        _shards(address).open()
    assert "notes.txt" in store.children() and ".ubgen/manifest.json" not in store.children()


def _failing():
    yield {"index": 3}
    raise OSError(errno.ENOSPC, "No space left on device")


class _Faulty:
    """Fails a number of times with that error, then does as the method that it stands for."""

    def __init__(self, method, error, times):
        self.method, self.error, self.left = method, error, times

    def __call__(self, *arguments, **named):
        if self.left:
            self.left -= 1
            raise self.error
        return self.method(*arguments, **named)


def test_a_store_that_does_not_answer_is_waited_for_and_said(monkeypatch):
    slept = []
    store = output_store("memory://faulty/d", lambda seconds, why: slept.append((seconds, why)))
    away = EndpointConnectionError(endpoint_url="http://store")
    monkeypatch.setattr(store, "fs", _WithFaults(store.fs, _Faulty(store.fs.pipe_file, away, 2)))
    store.write_text("a.txt", "text")
    assert store.read_text("a.txt") == "text" and [seconds for seconds, _ in slept] == [1.0, 2.0]
    assert slept[0][1].startswith("memory://faulty/d, where writing failed (Could not connect to")
    monkeypatch.setattr(store, "fs", _WithFaults(store.fs, _Faulty(None, away, 99)))
    with pytest.raises(OSError, match=r"failed 7 times.*nothing finished is lost: run the same command again"):
        store.write_text("a.txt", "other")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (PermissionError("Access Denied"), "writing is not allowed .*use credentials that may"),
        (NoCredentialsError(), "there are no credentials .*AWS_ACCESS_KEY_ID"),
        (FileNotFoundError("The specified bucket does not exist"), "does not exist .*make it first"),
        (_SKEWED, r"refuses requests of this machine's clock \(The difference between .*set the clock"),
    ],
)
def test_a_store_that_may_not_be_written_is_found_at_once(monkeypatch, fault, message):
    shards = _shards("memory://faulty/d")
    monkeypatch.setattr(shards.store, "fs", _WithFaults(shards.store.fs, _Faulty(None, fault, 99)))
    with pytest.raises(ValueError, match=message):
        shards.check_may_write()


def test_a_store_that_is_away_is_no_new_dataset(monkeypatch):
    """Else what the manifest says would be lost when a smaller batch size is noted there."""
    shards = _whole("memory://away/d")
    monkeypatch.setattr(shards.store, "_pause", lambda seconds, why: None)
    fs = shards.store.fs
    monkeypatch.setattr(shards.store, "fs", _WithFaults(fs, None, _Faulty(None, OSError("away"), 7)))
    with pytest.raises(OSError, match="failed 7 times"):
        shards.lower_batch_size(2)
    shards.store.fs = fs
    assert shards.begun_with() == {"seed": 1} and shards.lowered_batch_size() is None
    monkeypatch.setattr(shards.store, "fs", _WithFaults(fs, None, _Faulty(None, OSError("away"), 7)))
    with pytest.raises(OSError, match="failed 7 times"):
        shards.begun_with()


def test_what_reads_the_files_is_asked_again_but_not_for_its_own_fault(monkeypatch):
    slept = []
    store = output_store("memory://d", lambda seconds, why: slept.append(why))
    away = EndpointConnectionError(endpoint_url="http://store")
    assert store.reading(_Faulty(lambda: 3, away, 2)) == 3
    assert len(slept) == 2 and slept[0].startswith("memory://d, where reading failed (Could not connect")
    with pytest.raises(KeyError):
        store.reading(_Faulty(None, KeyError("column"), 1))
    assert len(slept) == 2
    assert LocalFolder.reading(output_store("d", _no_pause), lambda: 4) == 4


def test_what_killed_processes_left_of_asking_is_cleared(address):
    shards = _whole(address)
    shards.store.write_text(".ubgen/may-write-0", "left")
    shards.finish("# card\n")
    assert not [name for name in shards.store.children(".ubgen") if name.startswith("may-write")]


def test_why_a_file_is_forbidden_is_asked_for(monkeypatch):
    """S3 answers the question for one file without a reason, as where this machine's clock is wrong."""
    shards = _shards("memory://faulty/d")
    away = _WithFaults(shards.store.fs, None, _Faulty(None, PermissionError("Forbidden"), 99))
    away.ls = _Faulty(None, _SKEWED, 99)
    monkeypatch.setattr(shards.store, "fs", away)
    with pytest.raises(ValueError, match=r"this machine's clock \(The difference between .*set the clock"):
        shards.begun_with()
    # credentials that are past their time
    away.cat_file = _Faulty(None, OSError(errno.EINVAL, "Bad Request"), 99)
    away.ls = _Faulty(None, PermissionError("The provided token has expired."), 99)
    with pytest.raises(ValueError, match=r"reading is not allowed \(The provided token has expired"):
        shards.begun_with()
    away.cat_file = _Faulty(None, PermissionError("Forbidden"), 99)
    # where the listing tells nothing
    away.ls = lambda path, **named: []
    with pytest.raises(ValueError, match=r"reading is not allowed \(Forbidden\); use credentials that may list"):
        shards.begun_with()


class _WithFaults:
    def __init__(self, fs, pipe_file, cat_file=None):
        self._fs, self.pipe_file, self.cat_file = fs, pipe_file or fs.pipe_file, cat_file or fs.cat_file

    def __getattr__(self, name):
        return getattr(self._fs, name)


def test_a_repository_of_the_hub_is_a_store_too(hub):
    from huggingface_hub import HfApi

    HfApi().create_repo("org/d", repo_type="dataset")
    shards = _whole("hf://datasets/org/d")
    assert not shards.missing() and not _shards("hf://datasets/org/d").missing()
    assert len([path for path in hub.repositories.tree("dataset", "org/d") if path.startswith("data/")]) == 3
    with pytest.raises(ValueError, match=r"output_dir is 'hf://datasets/org/none'.* does not exist .*make it first"):
        _shards("hf://datasets/org/none").check_may_write()

"""Shards: committed whole or not at all, resumed only with equal settings."""

import pytest
from datasets import Features, Value, load_dataset

from ubgen_pipeline.dataset.shards import DatasetShards

FEATURES = Features({"index": Value("int64")})


def _rows(shard, stop_at=None):
    for index in range(shard.start, shard.stop):
        if index == stop_at:
            raise OSError(28, "No space left on device")
        yield {"index": index}


def _shards(folder, **settings):
    return DatasetShards(folder, {"seed": 1, **settings}, num_samples=7, samples_per_shard=3)


def test_write_then_read(tmp_path):
    shards = _shards(tmp_path / "d")
    shards.open()
    assert [(item.start, item.stop) for item in shards.missing()] == [(0, 3), (3, 6), (6, 7)]
    for shard in reversed(shards.shards):
        shards.write(shard, _rows(shard), FEATURES)
    assert not shards.is_finished()
    (tmp_path / "d" / ".ubgen" / "x.1.tmp").write_text("left by a killed run")
    shards.finish("# card\n")
    assert shards.is_finished() and not list((tmp_path / "d").rglob("*.tmp"))
    assert load_dataset(str(tmp_path / "d"), split="train")["index"][:] == list(range(7))


def test_a_failing_shard_leaves_nothing_and_is_missing(tmp_path):
    shards = _shards(tmp_path)
    shards.open()
    with pytest.raises(OSError, match="No space"):
        shards.write(shards.shards[1], _rows(shards.shards[1], stop_at=4), FEATURES)
    assert not list((tmp_path / "data").iterdir()) and not list(tmp_path.rglob("*.tmp"))
    shards.write(shards.shards[1], _rows(shards.shards[1]), FEATURES)
    assert [item.number for item in _shards(tmp_path).missing()] == [0, 2]
    # a file without its mark, or cut short, does not count
    shards.file(shards.shards[1]).write_bytes(b"cut")
    assert [item.number for item in shards.missing()] == [0, 1, 2]


def test_other_settings_are_named_and_nothing_is_lost(tmp_path):
    _shards(tmp_path).open()
    before = (tmp_path / ".ubgen" / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match="seed was 1 there and is 2 now"):
        _shards(tmp_path, seed=2).open()
    assert (tmp_path / ".ubgen" / "manifest.json").read_bytes() == before


def test_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"something else .*notes\.txt"):
        _shards(tmp_path).open()
    with pytest.raises(ValueError, match="is a file"):
        _shards(tmp_path / "notes.txt").open()
    assert [item.name for item in tmp_path.iterdir()] == ["notes.txt"]


def test_what_systems_leave_in_a_folder_is_no_dataset_of_somebody_else(tmp_path):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    _shards(tmp_path).open()
    assert (tmp_path / ".ubgen" / "manifest.json").is_file()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"num_bytes": null}', "\0"])
def test_a_damaged_mark_is_named_and_what_to_do_works(tmp_path, text):
    shards = _shards(tmp_path)
    shards.open()
    for shard in shards.shards:
        shards.write(shard, _rows(shard), FEATURES)
    mark = tmp_path / ".ubgen" / "shard-00001.json"
    mark.write_text(text)
    with pytest.raises(ValueError, match=r"shard-00001.json' is damaged; delete it, and the same command draws"):
        shards.missing()
    mark.unlink()
    assert [item.number for item in shards.missing()] == [1]

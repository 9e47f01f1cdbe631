"""What the card says of rows: each file is read once, and a store's slow answers show progress."""

from collections import Counter

import pyarrow
import pyarrow.parquet as parquet
import pytest
from upath import UPath

from support.scene_dataset import write_scene_dataset
from ubgen_pipeline.dataset import row_facts
from ubgen_pipeline.dataset.reader import shard_files, stored_column
from ubgen_pipeline.dataset.row_facts import ShardFacts, marked_rows, read_facts
from ubgen_pipeline.dataset.shards import DatasetShards


def test_facts_are_the_columns_of_numbers_and_the_size_of_the_first_image(tmp_path):
    write_scene_dataset(tmp_path)
    files = shard_files(tmp_path)
    facts = [read_facts(file) for file in files]
    assert [label for each in facts for label in each.columns["label"]] == stored_column(files, "label")
    assert "image" not in facts[0].columns and facts[0].image_size == (128, 64)


def test_marks_are_counted(tmp_path):
    write_scene_dataset(tmp_path)
    file = shard_files(tmp_path)[0]
    assert marked_rows(file) == Counter() and read_facts(file).marks == Counter()
    table = parquet.read_table(file).replace_schema_metadata(None)
    table = table.append_column("nsfw_content_detected", pyarrow.array([True, False, None, True]))
    table = table.append_column("not_finite", pyarrow.array([None, "image", "redrawn", "image"]))
    parquet.write_table(table, file)
    assert marked_rows(file) == {"nsfw_content_detected": 2, "image": 2, "redrawn": 1}
    assert read_facts(file).marks == marked_rows(file)


def test_a_first_image_that_cannot_be_read_has_no_size(tmp_path):
    file = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"image": [{"bytes": b"no image", "path": None}], "label": [0]}), file)
    assert read_facts(file).image_size is None


@pytest.fixture
def opened_files(monkeypatch) -> list[str]:
    """Names of the parquet files in the order in which facts were read from them."""
    names: list[str] = []

    def count(file):
        names.append(file.name)
        return read_facts(file)

    monkeypatch.setattr(row_facts, "read_facts", count)
    return names


def test_a_file_is_read_once(tmp_path, opened_files, capsys):
    write_scene_dataset(tmp_path)
    shards = DatasetShards(tmp_path, {"made": "for a test"}, 11, 4)
    facts = ShardFacts(shards)
    (second,) = facts.of(shards.shards[1:2])
    every = facts.of(shards.shards)
    assert every[1] is second and sorted(opened_files) == [file.name for file in shard_files(tmp_path)]
    # a dataset of a few files on this machine is read at once, without a word
    assert capsys.readouterr().err == ""


def test_reading_from_an_address_shows_progress(tmp_path, capsys):
    write_scene_dataset(tmp_path)
    there = UPath("memory://row-facts")
    for file in tmp_path.rglob("*"):
        if file.is_file():
            target = there / file.relative_to(tmp_path).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    local, shards = (DatasetShards(place, {"made": "for a test"}, 11, 4) for place in (tmp_path, there))
    assert ShardFacts(shards).of(shards.shards) == ShardFacts(local).of(local.shards)
    assert "3/3 shards read for the card" in capsys.readouterr().err

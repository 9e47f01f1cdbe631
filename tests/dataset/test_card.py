"""The card beside a dataset: what it takes over, and the bias report that is put into it."""

import re
import shutil

import pytest

from support import DATA
from support.scene_dataset import write_scene_dataset
from ubgen_pipeline.dataset.card import add_bias_report, card_of_copy, licence_of, stored_card_maker
from ubgen_pipeline.dataset.reader import StoredRows
from ubgen_pipeline.dataset.shards import open_dataset


@pytest.fixture
def first(tmp_path):
    return shutil.copytree(DATA / "first_version" / "dataset", tmp_path / "d")


def test_a_card_is_made_again_from_what_is_stored(first):
    shards = open_dataset(first)
    card = stored_card_maker(shards, (first / "README.md").read_text())(shards.shards, shards.num_bytes())
    # that version said neither what the numbers in masks mean nor anything of the rows
    card = re.sub(r"column_values:\n( .*\n)+", "", card)
    card = re.sub(r"`column_values` in this card's.*\n\n", "", card)
    card = re.sub(r"## Statistics\n.*?(?=## Classes)", "", card, flags=re.S)
    # a dataset of that version has one LoRA at most
    card = card.replace("; a list where there are several, or one of another strength than 1 |", " |")
    # and no model in one file that lacks parts
    card = card.replace("; of a checkpoint in one file, that of the model that has what the file lacks |", " |")
    assert card == (first / "README.md").read_text()


def test_a_bias_report_replaces_the_one_before_and_nothing_else(first):
    before = (first / "README.md").read_text()
    add_bias_report(first, "first report\n")
    once = (first / "README.md").read_text()
    add_bias_report(first, "second report\n")
    twice = (first / "README.md").read_text()
    assert (first / "bias_report.txt").read_text() == "second report\n"
    assert once.replace("first report", "second report") == twice and "second report" in twice
    assert set(before.splitlines()) <= set(twice.splitlines())
    with pytest.raises(ValueError, match="holds no dataset"):
        add_bias_report(first.parent, "report")


def test_the_card_of_a_copy_says_how_and_of_what(tmp_path):
    write_scene_dataset(tmp_path / "scenes")
    card = card_of_copy(open_dataset_like(tmp_path / "scenes"), StoredRows(tmp_path / "scenes"), "scored")
    assert "# Images, scored" in card and "11 rows of scenes." in card


def open_dataset_like(folder):
    """The shards of a dataset whose manifest says nothing of how it was drawn."""
    from ubgen_pipeline.dataset.shards import DatasetShards

    return DatasetShards(folder, {"made": "for a test"}, 11, 4)


def test_a_licence_is_read_from_the_metadata():
    card = "---\nlicense: other\nlicense_name: mine\ntags:\n- ubgen\n---\n# Card\n"
    assert licence_of(card) == {"license": "other", "license_name": "mine"}
    assert licence_of("# Card\n") == {} and licence_of("---\ntags: []\n---\n") == {}

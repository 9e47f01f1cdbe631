"""Statistics of rows, for the card."""

import numpy as np
import pytest

from support.scene_dataset import write_scene_dataset
from ubgen_pipeline.dataset.reader import shard_files
from ubgen_pipeline.dataset.row_facts import read_facts
from ubgen_pipeline.dataset.statistics import context_entropy, dataset_statistics, distribution


def test_sizes_and_scores_of_objects_are_those_of_the_rows(tmp_path):
    rows = write_scene_dataset(tmp_path)
    facts = [read_facts(file) for file in shard_files(tmp_path)]
    found = {item.name: item for item in dataset_statistics(facts, [1] * 10).distributions}
    numbers = [len(row.objects) for row in rows]
    assert found["objects in an image"].mean == pytest.approx(np.mean(numbers))
    sides = [region.sum() ** 0.5 for row in rows for *_, region in row.objects]
    about = found["side of a square of an object's area, in pixels"]
    assert (about.least, about.most) == (min(sides), max(sides))
    assert sum(about.counts) == len(sides)
    assert found["score of an object"].mean == 0.75
    assert found["width of the first image of each file, in pixels"].most == 128


def test_a_distribution_leaves_out_what_is_no_number():
    found = distribution("x", [1.0, None, 3.0, float("nan")])
    assert found is not None and (found.least, found.mean, found.most, sum(found.counts)) == (1, 2, 3, 2)
    assert distribution("x", [None]) is None
    same = distribution("x", [2.0, 2.0])
    assert same is not None and same.counts == [2]


def test_entropy_tells_contexts_that_belong_to_a_class():
    apart = context_entropy("place", ["sea", "sea", "wood", "wood"], [0, 0, 1, 1])
    mixed = context_entropy("place", ["sea", "wood", "sea", "wood", None], [0, 0, 1, 1, 1])
    assert apart is not None and (apart.num_values, apart.bits, apart.bits_within_class) == (2, 1.0, 0.0)
    assert mixed is not None and (mixed.bits, mixed.bits_within_class, mixed.most_bits) == (1.0, 1.0, 1.0)
    assert context_entropy("place", [None], [0]) is None

"""The background gap, and the mapping of 1,000 classes to nine."""

import json

import numpy as np
import pytest

from ubgen_evaluation import background_gap, coarse_correct, load_coarse_classes


def test_gap():
    found = background_gap([True, True, True, False], [1, 0, 0, 0])
    assert found._asdict() == pytest.approx({"mixed_same": 0.75, "mixed_rand": 0.25, "gap": 0.5})
    assert background_gap([0, 1], [1, 1]).gap == -0.5


@pytest.mark.parametrize(
    ("same", "rand", "message"),
    [
        ([1, 0], [1], "mixed_same_correct 2, mixed_rand_correct 1"),
        ([], [], "mixed_same_correct has shape"),
        ([1, 2], [1, 0], "mixed_same_correct holds"),
        (["yes"], [1], "mixed_same_correct holds"),
    ],
)
def test_bad_input(same, rand, message):
    with pytest.raises(ValueError, match=message):
        background_gap(same, rand)


def test_the_mapping_as_published_and_as_a_list(tmp_path):
    mapping = np.random.default_rng(0).integers(-1, 9, 1000)
    file = tmp_path / "in_to_in9.json"
    file.write_text(json.dumps({str(i): int(v) for i, v in enumerate(mapping)}))
    np.testing.assert_array_equal(load_coarse_classes(file), mapping)
    file.write_text(json.dumps(mapping.tolist()))
    np.testing.assert_array_equal(load_coarse_classes(file), mapping)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0": 0, "2": 1, "3": 0}, "misses class 1"),
        ({"0": 0, "1": 1, "2": 9}, r"class 2 to 9, outside \[-1, 9\)"),
        ({"0": 0, "1": 1, "2": "dog"}, "class 2 to 'dog'"),
        ({"0": 0, "1": 1, "2": 0, "3": 0}, "holds 4 classes"),
        ([0, 1], "maps 2 classes"),
    ],
)
def test_bad_mappings(tmp_path, content, message):
    file = tmp_path / "map.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        load_coarse_classes(file, num_classes=3)
    assert "map.json" in str(error.value)


def test_a_class_that_belongs_to_none_is_wrong():
    mapping = [0, 0, 1, -1]
    assert coarse_correct([0, 1, 2, 3, 2], [0, 0, 1, 0, 0], mapping).tolist() == [True, True, True, False, False]
    for predicted, labels, message in (([4], [0], "predicted holds 4"), ([0], [9], "labels holds 9")):
        with pytest.raises(ValueError, match=message):
            coarse_correct(predicted, labels, mapping)
    with pytest.raises(ValueError, match="predicted 2, labels 1"):
        coarse_correct([0, 1], [0], mapping)

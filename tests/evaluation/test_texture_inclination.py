"""Texture inclination against counts by hand, and the published category files."""

import json
import math

import numpy as np
import pytest

from ubgen_evaluation import category_decisions, category_probabilities, load_categories, texture_inclination
from ubgen_evaluation.texture_inclination import CUE_CONFLICT_CATEGORIES, imagenet_class_ids


def test_a_case_by_hand():
    #        shape hit, texture hit, neither, left out, texture hit
    decisions = ["cat", "truck", "oven", "cat", "bear"]
    shapes = ["cat", "cat", "cat", "cat", "dog"]
    textures = ["dog", "truck", "dog", "cat", "bear"]
    found = texture_inclination(decisions, shapes, textures)
    assert found._fields == ("shape_fraction", "texture_fraction", "inclination")
    assert found == pytest.approx((1 / 4, 2 / 4, 2 / 3))
    numbers = [[CUE_CONFLICT_CATEGORIES.index(name) for name in row] for row in (decisions, shapes, textures)]
    assert texture_inclination(*numbers) == found
    assert all(type(value) is float for value in found)


def test_a_decision_for_neither_leaves_the_inclination_undefined():
    found = texture_inclination([5, 5], [0, 1], [1, 0])
    assert found[:2] == (0, 0) and math.isnan(found.inclination)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([1, 2], [1, 2, 3], [2, 1, 2]), "decisions 2, shapes 3, textures 3"),
        (([], [], []), "empty"),
        (([1, 1], [2, 3], [2, 3]), "equal everywhere"),
        ((["cat"], [1], [2]), "decisions holds names, shapes holds numbers"),
        (([float("nan")], [1], [2]), "decisions is float64"),
        (([[1]], [1], [2]), r"decisions has shape \(1, 1\)"),
    ],
)
def test_bad_arrays(arrays, message):
    with pytest.raises(ValueError, match=message):
        texture_inclination(*arrays)


def test_a_category_is_the_mean_over_its_classes():
    """A category of many classes does not win by their number: the sums would decide otherwise."""
    probabilities = [[0.2, 0.2, 0.2, 0.4], [0.1, 0.5, 0.3, 0.1]]
    categories = {"dog": [0, 1, 2], "car": [3]}
    np.testing.assert_allclose(category_probabilities(probabilities, categories), [[0.2, 0.4], [0.3, 0.1]])
    assert category_decisions(probabilities, categories).tolist() == ["car", "dog"]


@pytest.mark.parametrize(
    ("probabilities", "categories", "message"),
    [
        ([[0.5, float("nan")]], {"a": [0]}, "NaN or infinite values in 1 of 1 rows, first in row 0"),
        ([[3.0, -1.0]], {"a": [0]}, "not logits"),
        ([[0.5, 0.5]], {"a": [0], "b": []}, "category b has no classes"),
        ([[0.5, 0.5]], {"a": [2]}, r"category a holds class 2, outside \[0, 2\)"),
    ],
)
def test_bad_categories(probabilities, categories, message):
    with pytest.raises(ValueError, match=message):
        category_probabilities(probabilities, categories)


def test_category_files(tmp_path):
    ids = imagenet_class_ids()
    assert len(ids) == len(set(ids)) == 1000 and ids[0] == "n01440764" and ids[404] == "n02690373"
    text = tmp_path / "categories.txt"
    text.write_text("airplane = ['n02690373']\nbear = ['n02132136',\n        'n02133161']\n")
    numbers = tmp_path / "categories.json"
    numbers.write_text(json.dumps({"airplane": [404], "bear": [294, 295]}))
    assert load_categories(text) == load_categories(numbers) == {"airplane": [404], "bear": [294, 295]}
    text.write_text("airplane = [404]")
    assert load_categories(text) == {"airplane": [404]}
    text.write_text("airplane = ['n99999999']")
    with pytest.raises(ValueError, match=r"categories\.txt: category 'airplane' names 'n99999999'"):
        load_categories(text)
    for content, message in (("{", "could not be read"), ("", "no categories"), ('{"a": [1000]}', "class 1000")):
        numbers.write_text(content)
        with pytest.raises(ValueError, match=message):
            load_categories(numbers)


def test_category_files_as_they_were_published(tmp_path, capsys):
    """The forms of texture-vs-shape's human_categories.py and of its mapping from MS-COCO."""
    ids = imagenet_class_ids()
    chair = ["n02791124", "n03376595", "n04099969", "n00605023", "n04429376"]
    mapping = tmp_path / "mapping.txt"
    mapping.write_text(
        "# A document that explains [itself], e.g. 'knife'.\n\n    knife =    [n03041632]\n\n"
        "    airplane = [n02690373, n03955296, n13861050,\n                n13941806]\n\n"
        f"    chair =    [{', '.join(chair[:3])},\n                {', '.join(chair[3:])}]\n"
    )
    expected = {"knife": [499], "airplane": [404], "chair": [423, 559, 765, 857]}
    assert [ids.index(item) for item in chair if item in ids] == expected["chair"]
    assert load_categories(mapping) == expected
    # three airplanes, and a chair
    assert "4 ids are none of the 1000 classes and are skipped" in capsys.readouterr().err
    program = tmp_path / "human_categories.py"
    quoted = ", ".join(map(repr, chair))
    program.write_text(
        '"""Code."""\nimport numpy as np\n\ndef compute(category):\n    categories = HumanCategories()\n'
        '    indices = []\n    return sorted(["knife", "chair"])\n\nclass HumanCategories(object):\n'
        f"    knife =    ['n03041632']\n    airplane = ['n02690373', 'n03955296']\n    chair =    [{quoted}]\n"
        "    knife_indices = [499]\n    chair_indices = [423, 559,\n                     765]\n"
    )
    # the numbers count where it has them
    assert load_categories(program) == {**expected, "chair": [423, 559, 765]}
    assert "1 ids are none" in capsys.readouterr().err
    json_file = tmp_path / "categories.json"
    json_file.write_text(json.dumps({"chair": chair}))
    with pytest.raises(ValueError, match="category 'chair' names 'n00605023'"):
        load_categories(json_file)
    mapping.write_text("chair = [n00605023]")
    with pytest.raises(ValueError, match="category 'chair' names 'n00605023'"):
        load_categories(mapping)

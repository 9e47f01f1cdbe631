"""Which annotator a model's name stands for, and how its classes become the dataset's."""

import json

import pytest

from ubgen_pipeline.labelling.build_annotator import build_annotator, class_table, phrase_table


def test_a_table_has_one_plus_the_label_of_each_class_of_the_model():
    table = class_table(["sky", "cat", "puppy"], ["cat", "dog"], {"puppy": "dog"}, "m")
    assert table.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "class_map, message",
    [({"wolf": "dog"}, "class_map names 'wolf', which model 'm' lacks"), ({}, r"none of the classes of model 'm'")],
)
def test_a_table_that_maps_nothing_is_refused(class_map, message):
    with pytest.raises(ValueError, match=message):
        class_table(["sky", "hound"], ["cat", "dog"], class_map, "m")


def test_models_that_cannot_label_are_named(tmp_path):
    with pytest.raises(ValueError, match="class_map leads to 'wolf', which is none of the dataset's classes"):
        build_annotator("m", ["dog"], {"hound": "wolf"})
    with pytest.raises(ValueError, match=r"model is .*nothing', which could not be loaded"):
        build_annotator(str(tmp_path / "nothing"), ["dog"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="a bert, which neither segments nor detects"):
        build_annotator(str(tmp_path), ["dog"])


def test_a_class_has_all_its_phrases():
    asked, table = phrase_table(["scooter", "car"], {"electric scooter": "scooter", "kick scooter": "scooter"})
    assert asked == ["electric scooter", "kick scooter", "car"] and table.tolist() == [1, 1, 2]
    with pytest.raises(ValueError, match="class_map has the phrase 'car' for 'car', and 'sedan' is looked for by it"):
        phrase_table(["sedan", "car"], {"car": "sedan"})

"""Which annotator a model's name stands for, and how its classes become the dataset's."""

import json

import pytest

from support.tiny_labellers import sam3, segformer
from ubgen_pipeline.labelling.build_annotator import build_annotator, class_table


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


def test_negative_phrases_are_for_models_that_are_told_their_classes(tmp_path):
    segformer(str(tmp_path / "m"), ["star"])
    with pytest.raises(ValueError, match=r"negative_phrases holds 'moon', but model .* is not told"):
        build_annotator(str(tmp_path / "m"), ["star"], negative_phrases=["moon"])
    sam3(str(tmp_path / "s"))
    with pytest.raises(ValueError, match=r"finds instances itself; leave it out\."):
        build_annotator(str(tmp_path / "s"), ["star"], objects="queries")

"""Words that several classes share: the map for the model, and each row's own class in place of the shared one."""

import json

import numpy as np
import pytest

from ubgen_pipeline.labelling.annotators import Labelling
from ubgen_pipeline.labelling.class_words import read_shared_words
from ubgen_pipeline.mask_regions import MaskObject

NAMES = ["sports car", "car", "dog"]


def test_entries_map_words_to_classes():
    words = read_shared_words(["automobile=car"], NAMES)
    assert dict(words.class_map) == {"automobile": "car"} and words.stand_ins == (0, 1, 2)


def test_a_shared_word_stands_for_the_class_of_its_name_and_comes_back_in_the_row(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"dataset_to_model_class_map": {"sports car": "car", "car": "car", "lamp": "lamp"}}))
    words = read_shared_words([str(file)], NAMES)
    assert dict(words.class_map) == {"car": "car"} and words.stand_ins == (1, 1, 2)
    mask = np.array([[0, 2, 3, 255]], np.uint8)
    found = Labelling(mask, [MaskObject(2, (1, 0, 2, 1), 1, 0.5, mask == 2)])
    own = words.in_row(found, 0)
    assert own.mask.tolist() == [[0, 1, 3, 255]] and own.objects[0].value == 1
    assert words.in_row(found, 1) is found and found.objects[0].value == 2


def test_a_configuration_without_one_of_the_classes_is_refused(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"dataset_to_model_class_map": {"lamp": "lamp"}}))
    with pytest.raises(ValueError, match="names none of the classes sports car, car, dog"):
        read_shared_words([str(file)], NAMES)

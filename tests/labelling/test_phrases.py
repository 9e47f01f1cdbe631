"""Phrases of classes, and negative ones that no object of a class is."""

import numpy as np
import pytest

from ubgen_pipeline.labelling.phrases import read_phrases
from ubgen_pipeline.mask_regions import MaskObject

NAMES = ["scooter", "car"]


def test_a_class_has_all_its_phrases():
    phrases = read_phrases(
        NAMES, {"electric scooter": "scooter", "kick scooter": "scooter"}, ["toy car=car", "poster"]
    )
    assert phrases.asked == ["electric scooter", "kick scooter", "car", "toy car", "poster"]
    assert phrases.table.tolist() == [1, 1, 2, -1, -2] and phrases.denied == ({2}, frozenset())
    # where one class alone is looked for, only what tells of it
    assert phrases.of_class(None) == [0, 1, 2, 3, 4]
    assert phrases.of_class(0) == [0, 1, 4] and phrases.of_class(1) == [2, 3, 4]


@pytest.mark.parametrize(
    ("class_map", "negative", "message"),
    [
        ({"car": "scooter"}, [], "class_map has the phrase 'car' for 'car', and 'scooter' is looked for by it"),
        ({}, ["car"], "negative_phrases holds 'car', by which 'car' is looked for"),
        ({}, ["toy=van"], "negative_phrases leads to 'van', which is none of the dataset's classes"),
        ({}, ["toy="], "negative_phrases holds 'toy='; write PHRASE, or PHRASE=CLASS"),
        ({}, ["toy", "toy=car"], "negative_phrases has 'toy' for all classes and once more"),
    ],
)
def test_phrases_that_contradict_each_other_are_refused(class_map, negative, message):
    with pytest.raises(ValueError, match=message):
        read_phrases(NAMES, class_map, negative)


def found(value, score, left, right):
    region = np.zeros((4, 12), bool)
    region[:, left:right] = True
    return MaskObject(value, (left, 0, right, 4), int(region.sum()), score, region)


def test_what_a_negative_phrase_has_more_surely_is_no_object():
    phrases = read_phrases(NAMES, {}, ["toy car=car"])
    car, scooter, elsewhere = found(2, 0.6, 0, 4), found(1, 0.5, 0, 4), found(2, 0.3, 8, 12)
    assert phrases.settle([car, scooter, elsewhere, found(-1, 0.9, 0, 5)]) == [scooter, elsewhere]
    assert phrases.settle([car, found(-1, 0.4, 0, 5)]) == [car]
    # little in common
    assert phrases.settle([car, found(-1, 0.9, 3, 9)]) == [car]


def test_what_several_phrases_find_again_is_one_object():
    phrases = read_phrases(NAMES, {"kick scooter": "scooter", "electric scooter": "scooter"})
    one, again, car = found(1, 0.6, 0, 4), found(1, 0.8, 0, 5), found(2, 0.9, 0, 4)
    assert phrases.settle([one, again, car], asked_by_one=True) == [again, car]
    assert phrases.settle([one, again, car]) == [one, again, car]

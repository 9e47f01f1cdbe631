"""Warnings and look-alikes of a class list."""

import re

import pytest

from ubgen_pipeline.prompts.class_checks import check_classes
from ubgen_pipeline.prompts.class_prompts import load_class_names


@pytest.mark.parametrize(
    ("entry", "warning"),
    [
        ("traffic_light", "has underscores, which are read as signs: write 'traffic light'"),
        ("trafficLight", "is written in camel case, which is read as one word: write 'traffic light'"),
        ("1.10", "is a number"),
        ("wall;partition", "holds several words parted by commas or signs"),
        ("#lamp", "looks like a comment"),
        ("lamp # of the desk", "looks like a comment"),
        ('"lamp"', "is in quotes, which are drawn, too"),
        ("001.Albatross", "begins with a number and a sign"),
        ("cafÃ© table", "seems to be UTF-8 that a program read as another encoding, of 'café table'"),
        # its first letter is Cyrillic
        ("\u0441at", r"has letters of several alphabets in '\u0441at' \(Latin, Cyrillic\)"),
        # what UTF-8 makes of 模褕 in GBK
        ("模褕".encode("gbk").decode(), r"has letters of several alphabets in 'ģш'"),
        ("crane", r"has 2 meanings in WordNet: give an id or a definition \(n02012849: large long-necked"),
    ],
)
def test_a_name_that_is_drawn_otherwise_than_it_is_meant(entry, warning):
    (check,) = check_classes(load_class_names([entry]))
    assert len(check.warnings) == 1 and re.match(warning, check.warnings[0])


@pytest.mark.parametrize(
    "name", ["café", "β-carotene", "кошка", "猫のhello", "Ångström", "naïve Ã", "Đorđe", "日本 star"]
)
def test_other_letters_are_no_reason_to_warn(name):
    (check,) = check_classes(load_class_names([name]))
    assert check.warnings == ()


def test_an_id_or_a_definition_says_which_meaning():
    classes = load_class_names([{"name": "crane", "id": "n02012849"}, {"name": "star", "definition": "a shape"}])
    assert [check.warnings for check in check_classes(classes)] == [(), ()]


def test_look_alikes_are_found_by_spelling_meaning_and_synonym():
    names = ["traffic_light", "trafficLight", "couch", "sofa", "stars", {"name": "sun", "synonyms": ["star"]}, "ring"]
    checks = check_classes(load_class_names(names))
    assert [check.look_alikes for check in checks] == [(1,), (0,), (3,), (2,), (5,), (4,), ()]


def test_equal_tokens_are_warned_of():
    classes = load_class_names([{"name": "missile", "id": "n1"}, {"name": "Missile", "id": "n2"}, "ring"])
    first, second, third = check_classes(classes)
    assert "has the tokens of 'Missile' (label 1)" in first.warnings[0] and first.look_alikes == (1,)
    assert "has the tokens of 'missile' (label 0)" in second.warnings[0] and third.look_alikes == ()
    # a model that knows three tokens
    told = check_classes(load_class_names(["ring", "disc", "star"]), lambda name: [name == "star"])
    assert [check.look_alikes for check in told] == [(1,), (0,), ()]

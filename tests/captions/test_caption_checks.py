"""From answers to captions: what is taken off, what is refused and why, plurals, near-duplicates, templates."""

import pytest

from ubgen_pipeline.captions.caption_checks import (
    CUT_OFF,
    EMPTY,
    WITHOUT_CLASS,
    Answer,
    Caption,
    content_words,
    is_near_duplicate,
    plural,
    plural_words,
    read_caption,
    template_of,
)
from ubgen_pipeline.prompts.class_entries import ClassName

FOX = ClassName("red fox", synonyms=("Vulpes vulpes",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red fox on a log.", "A red fox on a log."),
        ('\n "A Red  Fox on a log."\nIt is dusk.', "A Red Fox on a log."),
        ("Caption: a red fox at dusk", "a red fox at dusk"),
        ("**Caption:** *a red fox at dusk*", "a red fox at dusk"),
        ("1. a red fox\n2. another red fox", "a red fox"),
        ("- a red fox", "a red fox"),
        ("<think>\nIt must be red.\n</think>\n\nA red fox asleep.", "A red fox asleep."),
        ("It must be red.</think>A red fox asleep.", "A red fox asleep."),
        ("---\nA \tred\x07fox\u200b asleep", "A red fox asleep"),
        ("a Vulpes vulpes", "a Vulpes vulpes"),
        ("Two red foxes play.", "Two red foxes play."),
        ("the red fox\u2019s den\u2011mate", "the red fox's den-mate"),
        ("a reindeer", WITHOUT_CLASS),
        ("a fox", WITHOUT_CLASS),
        ("a red foxglove", WITHOUT_CLASS),
        ("", EMPTY),
        (' \n"" … \n', EMPTY),
    ],
)
def test_answers_become_captions(text, expected):
    found = read_caption(Answer(text, True), FOX)
    assert (found.text if isinstance(found, Caption) else found) == expected


def test_an_answer_that_was_cut_off_counts_up_to_its_last_sentence():
    assert read_caption(Answer("A red fox sits on a", False), FOX) == CUT_OFF
    assert read_caption(Answer("<think>\nIs a red fox red", False), FOX) == CUT_OFF
    assert read_caption(Answer("A red fox sits. It is a", False), FOX).text == "A red fox sits."
    assert read_caption(Answer("A red fox sits on a log\nand so", False), FOX).text == "A red fox sits on a log"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red fox", "red foxes"), ("star", "stars"), ("bus", "buses"), ("puppy", "puppies"), ("toy", "toys"),
        ("snowman", "snowmen"), ("human", "humans"), ("sheep", "sheep"), ("water jug", "water jugs"),
    ],
)  # fmt: skip
def test_plurals(name, expected):
    assert plural(name) == expected


def test_near_duplicates_share_their_words_beside_the_class():
    def words(text):
        return content_words(Caption(text, "red fox"))

    first = words("A red fox sits on a mossy log at dawn.")
    assert is_near_duplicate(words("at dawn a red fox sits on a MOSSY log"), [first], 0.99)
    assert is_near_duplicate(words("A red fox sits on a mossy log at dusk."), [first], 0.7)
    assert not is_near_duplicate(words("A red fox sits on a mossy log at dusk."), [first], 0.8)
    assert not is_near_duplicate(words("A red fox runs through snow."), [first], 0.7)
    # nothing but the class, twice
    assert is_near_duplicate(words("red fox"), [words("Red fox!")], 0.9)


def test_a_template_has_the_name_as_a_placeholder_and_its_own_braces_twice():
    assert template_of(Caption("A Red  fox {x} and red foxes", "red fox"), FOX) == "A {name} {{x}} and red foxes"
    captions = [
        Caption("two red foxes", "red foxes"),
        Caption("a red fox", "red fox"),
        Caption("red foxes", "red foxes"),
    ]
    assert plural_words(captions, FOX) == ["red foxes"]

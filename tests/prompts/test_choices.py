"""Choices of k of n values: what can be written, in which order they come, and what is refused."""

import itertools

import pytest

from ubgen_pipeline.prompts.choices import Combinations, parse_choice
from ubgen_pipeline.prompts.class_prompts import ClassName
from ubgen_pipeline.prompts.templates import PromptTemplates

COLOURS = ("red", "green", "blue", "grey")


def all_prompts(template, attributes=(), **settings):
    templates = PromptTemplates((template,), dict(attributes), **settings)
    star = ClassName("star")
    return [templates.prompt(star, 0, position) for position in range(templates.count(star))]


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 2), (0, 2), (1, 4), (4, 4)])
def test_combinations_are_those_of_itertools(low, high):
    expected = ["+".join(chosen) for size in range(low, high + 1) for chosen in itertools.combinations(COLOURS, size)]
    found = Combinations(COLOURS, low, high, "+")
    assert list(found) == expected and found[1:3] == expected[1:3] and found[-1] == expected[-1]
    with pytest.raises(IndexError):
        found[len(expected)]


def test_choices_are_written_as_dynamicprompts_has_them():
    for template, expected in {
        "{red|green} {name}": ["red star", "green star"],
        "{2$$red|green|blue} {name}": ["red, green star", "red, blue star", "green, blue star"],
        "{2$$ and $$red | green} {name}": ["red and green star"],
        "a {0-1$$small|big} {name}": ["a star", "a small star", "a big star"],
        "{0-1$$small|big} {name}": ["star", "small star", "big star"],
        "{name}, {1 - 2 $$a:b|c!d}": ["star, a:b", "star, c!d", "star, a:b, c!d"],
        "{{{a|b}}} {name}": ["{a} star", "{b} star"],
        "{a|b} {a|b} {name}": ["a a star", "a b star", "b a star", "b b star"],
    }.items():
        assert [item.prompt for item in all_prompts(template)] == expected, template


def test_attributes_are_chosen_from_and_remembered():
    found = all_prompts("{name} in {2$$weather}, {near|far}", {"weather": ("rain", "wind", "fog")})
    assert len(found) == 6 and found[1].prompt == "star in rain, wind, far"
    assert dict(found[1].attributes) == {
        "weather": "rain, wind",
        "choice_1": "far",
        "template": "{name} in {2$$weather}, {near|far}",
    }
    twice = all_prompts("{2$$colour} {name} and {2$$colour}", {"colour": COLOURS[:3]})
    assert twice[0].prompt == "red, green star and red, green" and len(twice) == 3


def test_signs_weight_all_that_was_chosen():
    assert [item.prompt for item in all_prompts("{2$$red|blue}++ {name}")] == ["(red, blue)++ star"]
    assert [item.prompt for item in all_prompts("{red++|blue} {name}")] == ["red++ star", "blue star"]


def test_millions_of_choices_are_counted_not_made():
    many = tuple(f"v{i}" for i in range(60))
    templates = PromptTemplates(("{7$$value} {name}",), {"value": many})
    star = ClassName("star")
    assert templates.count(star) == 386_206_920
    last = templates.prompt(star, 0, templates.count(star) - 1)
    assert last.prompt == f"{', '.join(many[-7:])} star"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{3$$red|blue} {name}", r"\{3\$\$red\|blue\} asks for 3 of 2 values"),
        ("{2$$x|} {name}", "an empty value"),
        ("{|x} {name}", "an empty value"),
        ("{x$$a|b} {name}", "is no choice"),
        ("{1$$a$$b$$c|d} {name}", "is no choice"),
        ("{0$$a|b} {name}", "asks for 0 values"),
        ("{2-1$$a|b} {name}", "asks for 2-1 values"),
        ("{2$$mood} {name}", "chooses from 'mood'; give it values among the attributes"),
        ("{2$$colour} {colour} {name}", "'colour' is filled in in two ways"),
        ("{2$$colour} {1$$colour} {name}", "'colour' is filled in in two ways"),
        ("{a|{b}} {name}", "one within others"),
        ("{name} }", "a brace without its other half"),
        ("{colour|wide} {name}", "chooses the word 'colour', which is the name of a placeholder"),
        ("{2$$synonym|moon} {name}", "chooses the word 'synonym', which is the name of a placeholder"),
        ("{30$$wide} {name}", "has 118,264,581,564,861,424 choices"),
    ],
)
def test_what_is_refused(template, message):
    attributes = {"colour": COLOURS, "wide": tuple(map(str, range(60)))}
    with pytest.raises(ValueError, match=f"template is .*{message}"):
        PromptTemplates((template,), attributes)


def test_an_attribute_with_a_choices_name_is_refused():
    with pytest.raises(ValueError, match="'choice_1' has the name that a choice gets"):
        PromptTemplates(("{a|b} {name}",), {"choice_1": ("x",)})
    assert parse_choice("name") is None


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{2$$red|red|blue} {name}", "asks for 2 of several values, of which 'red' stands twice"),
        ("{1-2$$colour} {name}", "asks for 2 of several values, of which 'a' stands twice"),
        ("{" + "9" * 5000 + "$$red|blue} {name}", r"is no choice; write \{2\$\$a"),
        ("{0.5::red|.25::blue} {name}", "has the value '0.5::red', with a weight of dynamicprompts"),
        ("{2$$red|3::green|blue} {name}", "has the value '3::green', with a weight of dynamicprompts"),
    ],
)
def test_values_that_stand_twice_and_weights_of_values_are_refused(template, message):
    with pytest.raises(ValueError, match=message):
        all_prompts(template, {"colour": ("a", "b", "a")})


def test_one_of_several_values_may_stand_twice():
    assert [item.prompt for item in all_prompts("{red|red|b::c} {name}")] == ["red star", "red star", "b::c star"]

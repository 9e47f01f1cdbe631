"""Products of attributes, what a prompt remembers, word weights, and choices by a seed."""

import itertools
import random

import pytest

from ubgen_pipeline.prompts.class_prompts import ClassName
from ubgen_pipeline.prompts.templates import (
    MAX_PROMPTS,
    PromptTemplates,
    check_class_word,
    check_number_of_prompts,
    chosen_positions,
    distinct_choices,
    template_fields,
)


def all_prompts(templates, item):
    return [templates.prompt(item, 0, position).prompt for position in range(templates.count(item))]


def test_a_product_is_that_of_the_attributes_each_template_uses():
    views, weathers = ("front", "side"), ("rain", "snow", "sun")
    templates = PromptTemplates(
        ("{view} of {name} in {weather}", "{name} in {weather}", "{name}"), {"weather": weathers, "view": views}
    )
    expected = [f"{view} of star in {weather}" for weather, view in itertools.product(weathers, views)]
    expected += [f"star in {weather}" for weather in weathers] + ["star"]
    assert all_prompts(templates, ClassName("star")) == expected
    everything = PromptTemplates(("{name}", "{name} {view}"), templates.attributes, combine_all=True)
    assert everything.count(ClassName("star")) == 12


def test_placeholders_of_the_class_and_what_a_prompt_remembers():
    templates = PromptTemplates(("{synonym}, {definition}, {colour} {{x}}",), {"colour": ("red",)})
    item = ClassName("star", "x7", "it (++) shines", ("five-pointed star",))
    first, second = (templates.prompt(item, 4, position) for position in (0, 1))
    assert first.prompt == r"star, it \(\+\+\) shines, red {x}" and first.word == "star" and first.key == "x7"
    assert second.prompt.startswith("five-pointed star, ") and second.word == "five-pointed star"
    assert dict(second.attributes) == {"colour": "red", "template": templates.templates[0]} and second.label == 4


def test_signs_weight_all_words_of_a_placeholder():
    templates = PromptTemplates(("a {name}++ in {weather}--",), {"weather": ("heavy rain", "sun")})
    assert all_prompts(templates, ClassName("fire engine")) == [
        "a (fire engine)++ in (heavy rain)--", "a (fire engine)++ in sun--"
    ]  # fmt: skip
    assert all_prompts(PromptTemplates(("{name}",), {}, weighted=False), ClassName("c++ (x)")) == ["c++ (x)"]


def test_choices_are_different_and_uniform():
    choices = [tuple(distinct_choices(random.Random(seed), 0, 4, 2)) for seed in range(4000)]
    counts = [choices.count(pair) for pair in itertools.permutations(range(5), 2)]
    assert sum(counts) == 4000 and min(counts) > 140  # 200 expected of each


def test_more_positions_begin_with_the_same_ones():
    assert list(chosen_positions(5, None, 0, "star")) == list(chosen_positions(5, 9, 0, "star")) == [0, 1, 2, 3, 4]
    few, many = chosen_positions(100, 3, 7, "star"), chosen_positions(100, 8, 7, "star")
    assert many[:3] == few and len(set(many)) == 8
    assert few != chosen_positions(100, 3, 8, "star") and few != chosen_positions(100, 3, 7, "ring")


def test_placeholders_are_bare_names():
    assert template_fields("{view} of {{x}} {name}") == ["view", "name"]
    for template in ("{}", "{name.x}", "{name[0]}", "{name:>3}", "{name!r}", "{name"):
        with pytest.raises(ValueError, match="template is"):
            template_fields(template)


def test_a_class_word_is_looked_for_as_a_whole_word():
    check_class_word("a Fire  Engine++ in rain", ("fire engine",), weighted=True)
    check_class_word("a lorry", ("truck", "lorry"), weighted=False)
    with pytest.raises(ValueError, match="class 'star' is not in its prompt 'a starfish'"):
        check_class_word("a starfish", ("star",), weighted=True)


def test_a_product_beyond_reason_names_the_cap():
    check_number_of_prompts([MAX_PROMPTS])
    with pytest.raises(ValueError, match=rf"{MAX_PROMPTS + 2:,} prompts for 2 classes.* at most {MAX_PROMPTS // 2:,}"):
        check_number_of_prompts([MAX_PROMPTS, 2])

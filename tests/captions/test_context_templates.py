"""The template that names a value of each context, and the file that it stands in."""

import pytest

from ubgen_pipeline.captions.context_templates import context_templates
from ubgen_pipeline.prompts.class_entries import ClassName

CLASSES = [ClassName("star", synonyms=("sun",)), ClassName("ring", class_id="n02")]


def test_a_value_of_each_context_follows_the_class_and_the_style_comes_before_it():
    contexts = {"place": ("indoors", "at sea"), "style": ("a drawing",), "the light": ("dim", "bright")}
    content = context_templates(CLASSES, contexts, 3, {"seed": 1})
    assert content == {
        "classes": [{"name": "star", "synonyms": ["sun"]}, {"name": "ring", "id": "n02"}],
        "templates": ["{style} of a {name}, {place}, {the_light}"],
        "attributes": {"place": ["indoors", "at sea"], "style": ["a drawing"], "the_light": ["dim", "bright"]},
        "max_prompts": 3,
        "weights": False,
        "written_by": {"seed": 1},
    }
    without = context_templates(CLASSES, {"place": ("indoors",)}, None, {})
    assert without["templates"] == ["a photo of a {name}, {place}"] and "max_prompts" not in without


@pytest.mark.parametrize("name", ["name", "synonym", "definition", "class_id", "3d", ""])
def test_a_context_whose_name_a_template_reads_otherwise_is_refused(name):
    with pytest.raises(ValueError, match=r"^contexts gives no template: attribute"):
        context_templates(CLASSES, {name: ("one", "two")}, None, {})


def test_no_contexts_make_no_template():
    with pytest.raises(ValueError, match=r"^contexts has none to write templates with; name some, or give"):
        context_templates(CLASSES, {}, None, {})

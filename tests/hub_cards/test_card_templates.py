"""Templates: what a value that is not ours passes, and what a template may not leave open."""

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from ubgen_hub_cards import card_templates
from ubgen_hub_cards.card_templates import card_template
from ubgen_hub_cards.card_text import markdown_code, markdown_text
from ubgen_hub_cards.pipeline_card import TEMPLATE


def test_every_template_has_the_filters_and_those_given():
    filters = card_template(TEMPLATE, loud=str.upper).environment.filters
    assert (filters["text"], filters["code"], filters["loud"]) == (markdown_text, markdown_code, str.upper)
    assert "loud" not in card_template(TEMPLATE).environment.filters


def test_a_value_that_is_missing_is_an_error_and_markdown_is_not_html():
    template = card_template(TEMPLATE)
    with pytest.raises(UndefinedError, match="class_name"):
        template.render(metadata="", version="1")
    shown = template.environment.from_string("{{ name }} {{ name | text }}\n").render(name="<b> & |")
    assert shown == f"<b> & | {markdown_text('<b> & |')}\n" and "|" not in markdown_text("|")


def test_templates_come_with_the_package():
    folder = Path(card_templates.__file__).parent
    names = {file.name for file in folder.glob("*.jinja")}
    filters = {"literal": str, "figure": str, "plot": str}
    assert len(names) == 4
    assert all(card_template(name, **filters).filename == str(folder / name) for name in names)

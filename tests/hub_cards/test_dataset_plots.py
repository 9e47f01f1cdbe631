"""Plots in a cell of a table, and the section of the card that they are in."""

import dataclasses

import pytest
from datasets import ClassLabel, Features, Image
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt

from ubgen_hub_cards.dataset_card import DatasetFacts, Source, render_dataset_card
from ubgen_hub_cards.dataset_plots import ContextEntropy, Distribution, Statistics, short_figure, small_plot


@pytest.mark.parametrize(
    ("counts", "plot"), [([8, 4, 0, 1], "█▄ ▁"), ([1, 1000], "▁█"), ([3], "█"), ([0, 0], "  "), ([], "")]
)
def test_heights_are_shares_of_the_largest(counts, plot):
    assert small_plot(counts) == plot


@pytest.mark.parametrize(("value", "text"), [(3.0, "3"), (0.12345, "0.123"), (1234.56, "1235"), (0.0, "0")])
def test_figures_are_short(value, text):
    assert short_figure(value) == text


def test_the_card_shows_them_as_tables():
    told = Statistics(
        [Distribution("a | <b>name</b>", 0.0, 0.5, 2.0, [1, 0, 2])], [ContextEntropy("weather", 4, 1.5, 0.25)]
    )
    features = Features({"image": Image(), "label": ClassLabel(names=["a"]), "mask": Image()})
    meaning = {"mask": {"background": 0, "ignore": 255}}
    facts = DatasetFacts(["a"], [2], 2, features, Source("mini"), [], 7, {}, column_values=meaning)
    card = render_dataset_card(dataclasses.replace(facts, statistics=told))
    html = MarkdownIt().enable("table").render(card)
    assert "<code>▄ █</code>" in html and "a | &lt;b&gt;name&lt;/b&gt;" in html
    assert "<td><code>weather</code></td>" in html and ">0.25</td>" in html
    assert card.index("## Statistics") < card.index("## Classes")
    assert DatasetCard(card, ignore_metadata_errors=False).data["column_values"] == meaning
    assert "## Statistics" not in render_dataset_card(facts)

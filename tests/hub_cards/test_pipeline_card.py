"""The card of the pipeline's code: metadata for the Hub, and a line of code that loads it."""

import ast
import re

import pytest
from huggingface_hub import ModelCard

from ubgen_hub_cards.pipeline_card import render_pipeline_card

CLASSES = {"class_name": "UbGenXPipeline", "stock_name": "XPipeline", "example_model": "org/x"}


def test_metadata_and_code_that_parses():
    card = render_pipeline_card("org/code", "0.1.0", **CLASSES)
    data = ModelCard(card, ignore_metadata_errors=False).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("diffusers", "text-to-image", "apache-2.0")
    (code, *_) = re.findall(r"^```python\n(.*?)^```$", card, re.M | re.S)
    keywords = {
        k.arg: k.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) for k in node.keywords
    }
    assert ast.literal_eval(keywords["custom_pipeline"]) == "org/code" and "0.1.0" in card
    assert "# UbGenXPipeline\n\nA `XPipeline`" in card and 'from_pretrained(\n    "org/x",' in code


@pytest.mark.parametrize("repo_id", ['org/x")\nimport os', "org", "org/a/b", ""])
def test_what_is_no_id_is_refused(repo_id):
    with pytest.raises(ValueError, match="repo_id is"):
        render_pipeline_card(repo_id, "0.1.0", **CLASSES)

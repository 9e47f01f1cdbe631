"""The Space's card: metadata that the Hub and its client read, and values that stay text."""

import html
import re

import yaml
from huggingface_hub import SpaceCard
from markdown_it import MarkdownIt

from support import ROOT
from support.hostile_text import HOSTILE
from ubgen_hub_cards.space_card import VARIABLES, SpaceFacts, render_space_card


def test_metadata_is_read_back():
    variables = {
        "UBGEN_MODEL": "org/sd",
        "UBGEN_LORA": "org/lora:0.5, org/other",
        "UBGEN_DATASETS": "org/a, ./local,org/b",
    }
    card = SpaceCard(render_space_card(SpaceFacts("show", "0.1.0", variables)), ignore_metadata_errors=False)
    assert (card.data.sdk, card.data.app_file, card.data.title) == ("gradio", "app.py", "show")
    assert card.data.models == ["org/sd", "org/lora", "org/other"] and card.data.datasets == ["org/a", "org/b"]
    # texts to YAML, which would read 6.31 and 3.10 as numbers
    assert isinstance(card.data.sdk_version, str) and isinstance(card.data.python_version, str)
    assert len(card.data.short_description) <= 60 and card.data.license == "apache-2.0"


def test_the_readme_of_the_folder_is_the_card_without_settings():
    assert (ROOT / "space" / "README.md").read_text("utf-8") == render_space_card(SpaceFacts())


def test_every_variable_is_listed_with_its_default():
    from space_settings import PREFIX, SpaceSettings

    fields = SpaceSettings.__dataclass_fields__
    assert {f"{PREFIX}{name.upper()}" for name in fields} == set(VARIABLES)
    for name in ("max_samples", "max_steps", "max_queue", "max_gpu_seconds"):
        assert VARIABLES[f"{PREFIX}{name.upper()}"][1] == str(fields[name].default)


def test_values_stay_text():
    parser, tags = MarkdownIt("gfm-like", {"linkify": False, "html": True}), re.compile(r"</?[a-zA-Z][^>]*>")
    expected = None
    for value in ["x|y", *HOSTILE]:
        variables = dict.fromkeys(VARIABLES, value) | {f"UBGEN_{value}": value, "SECRET": "other"}
        card = render_space_card(SpaceFacts(value, "0.1.0", variables))
        metadata = yaml.safe_load(card.split("\n---\n", 1)[0])
        assert metadata["title"] == value and metadata["sdk"] == "gradio"
        assert not set(metadata.get("models", ())) - {value}
        body = card.split("\n---\n", 1)[1]
        rendered = parser.render(body)
        # the same elements in the same order, whatever the text; names and numbers are code
        found = [tag for tag in tags.findall(rendered) if "code" not in tag]
        expected = expected or found
        assert found == expected, value
        if len(value) < 100 and value not in ("hf_abcdefghijklmnopqrstuvwxyz", "\u202eevil\u2066"):
            cells = [html.unescape(re.sub("</?code>", "", cell)) for cell in re.findall(r"<td>(.*?)</td>", rendered)]
            assert cells.count(value) == len(VARIABLES), value
        assert "\u202e" not in body and "hf_abcdef" not in body and "SECRET" not in body

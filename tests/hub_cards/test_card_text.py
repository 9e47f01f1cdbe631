"""User text shows as it was typed, whatever it holds; paths and tokens do not show at all."""

import ast
import html

import pytest

from support.hostile_text import HOSTILE
from ubgen_hub_cards.card_text import (
    LOCAL_SOURCE,
    LONGEST_TEXT,
    is_hub_id,
    markdown_block,
    markdown_code,
    markdown_text,
    plain_line,
    public_source,
    python_literal,
    without_tokens,
)

SHORT = [text for text in HOSTILE if len(text) <= LONGEST_TEXT and "\u202e" not in text]


@pytest.mark.parametrize("text", SHORT)
def test_markdown_text_shows_what_was_typed(text):
    written = markdown_text(text)
    assert html.unescape(written) == text
    assert not set(written) & set('<>[]()|`*_~$@{}/\\"!')
    code = markdown_code(text)
    assert code == f"`{text}`" or html.unescape(code) == text


def test_a_line_is_one_line_without_marks_and_not_endless():
    assert plain_line("a\r\n b\t\u202ec\u2066\u0000") == "a b c"
    long = plain_line("x" * 500)
    assert len(long) == LONGEST_TEXT and long.endswith("…") and plain_line("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT


def test_a_block_is_indented_and_keeps_its_lines():
    assert markdown_block("a | b\n\n# c\u202e  \n") == ["    a | b", "", "    # c"]


@pytest.mark.parametrize("text", [*HOSTILE, "a\"b'c\n"])
def test_literals_are_python_strings_on_one_line(text):
    literal = python_literal(text)
    assert ast.literal_eval(literal) == plain_line(text)
    assert literal.isascii() and "\n" not in literal


@pytest.mark.parametrize(
    ("source", "is_id"),
    [("org/name", True), ("org/name.v1-x", True), ("org", False), ("a/b/c", False), ("/a/b", False), ("örg/x", False)],
)
def test_ids_on_the_hub(source, is_id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(source) == is_id
    # a folder of that name is meant before a repository
    if is_id:
        (tmp_path / source).mkdir(parents=True)
        assert not is_hub_id(source) and public_source(source) == LOCAL_SOURCE


@pytest.mark.parametrize(
    "path", ["/a/b", "~/model", "./model", "a/b/c", "C:\\model", "open_clip:local-dir:models/clip"]
)
def test_paths_are_not_named(path):
    assert public_source(path) == LOCAL_SOURCE


@pytest.mark.parametrize("source", ["mini", "openai/clip", "open_clip:ViT-B-32/laion2b", "a/b@refs/pr/1"])
def test_public_sources_are_named(source):
    assert public_source(source) == source


def test_tokens_are_blotted_out():
    # made in parts, so that no scanner takes it for a real one
    token = "hf_" + "aB3" * 11
    assert without_tokens(f"x {token} {markdown_text(token)}.") == "x hf… hf…."
    assert without_tokens("hf_short") == "hf_short"

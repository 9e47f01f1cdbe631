"""Word weights: what is read from a prompt, and what is left of it as plain text."""

import pytest

from ubgen_pipeline.prompt_weights import Fragment, escape_weights, has_weights, parse_weights, plain_text

UP, DOWN = 1.1**2, 0.9**2


def F(text, weight=1.0):  # noqa: N802
    return Fragment(text, pytest.approx(weight))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a star", [F("a star")]),
        ("a star++ on sand", [F("a "), F("star", UP), F(" on sand")]),
        ("star+++, sand--.", [F("star", 1.1**3), F(", "), F("sand", DOWN), F(".")]),
        ("a <grand-piano>++ here", [F("a "), F("<grand-piano>", UP), F(" here")]),
        ("a (red star)++ here", [F("a "), F("red star", UP), F(" here")]),
        ("(red star)1.3, x", [F("red star", 1.3), F(", x")]),
        ("(red, blue:1.4), x", [F("red, blue", 1.4), F(", x")]),
        ("(a (b)++ c)--", [F("a ", DOWN), F("b", UP * DOWN), F(" c", DOWN)]),
        ("a crane (bird)", [F("a crane (bird)")]),
        # a number that goes on as a word is none
        ("(a b)2x, (c)1.5kg", [F("(a b)2x, (c)1.5kg")]),
        ("(a b)2. (c)1.5.", [F("a b", 2.0), F(". "), F("c", 1.5), F(".")]),
        ("T-shirt, 4+ stars, a -- b, x+y++z, ++", [F("T-shirt, 4+ stars, a -- b, x+y++z, ++")]),
        (r"C\+\+ \(x\)++", [F("C++ "), F("(x)", UP)]),
        ("(never closed++ x", [F("(never "), F("closed", UP), F(" x")]),
        ("", []),
    ],
)
def test_parses(prompt, expected):
    assert parse_weights(prompt) == expected
    assert plain_text(prompt) == "".join(item.text for item in expected)
    assert has_weights(prompt) == any(item.weight != 1 for item in expected)


@pytest.mark.parametrize("text", ["C++", "a--b--", "(x)1.3", "x (y:1.2)", "back\\slash", "+-+-++", "T-shirt (red)++"])
def test_escaped_text_is_plain(text):
    assert not has_weights(escape_weights(text)) and plain_text(escape_weights(text)) == text
    assert not has_weights(f"a {escape_weights(text)} b") and plain_text(f"{escape_weights(text)} b") == f"{text} b"

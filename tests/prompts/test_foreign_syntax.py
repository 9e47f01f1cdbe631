"""Syntax of other programs in prompts is told, and ordinary text is not."""

import pytest

from ubgen_pipeline.generation.generate import main
from ubgen_pipeline.prompts.foreign_syntax import foreign_syntax


@pytest.mark.parametrize(
    ("prompt", "text", "fix"),
    [
        ("a star <lora:style:0.8>", "<lora:style:0.8>", "--lora"),
        ("a star <LyCO:style>", "<LyCO:style>", "--lora"),
        ("a star, embedding:bad-hands", "embedding:bad-hands", "--embeddings"),
        ("a star BREAK a ring", "BREAK", "leave it out"),
        ("a __color__ star", "__color__", "attributes"),
        ("a __animals/dog__ star", "__animals/dog__", "attributes"),
        ("a [red:blue:0.5] star", "[red:blue:0.5]", "leave it out"),
    ],
)
def test_each_kind_is_told_once_with_what_to_do(prompt, text, fix):
    (sentence,) = foreign_syntax([prompt, "plain", prompt])
    assert repr(text) in sentence and fix in sentence


def test_ordinary_text_is_not():
    texts = ["a break in the clouds", "snake_case", "a <b> c", "[sic]", "at 12:30:45", "daybreak", "__init__x", "a: b"]
    assert foreign_syntax(texts) == []


def test_the_command_warns_and_draws(capsys):
    flags = ["--class-names", "star", "--samples-per-class", "1", "--dry-run"]
    assert main([*flags, "--template", "a __color__ {name} BREAK", "--negative-prompt", "<lora:bad:1>"]) == 0
    captured = capsys.readouterr()
    assert '"prompt": "a __color__ star BREAK"' in captured.out
    for text in ("'__color__'", "'BREAK'", "'<lora:bad:1>'"):
        assert f"{text} of a prompt is another program's syntax" in captured.err


def test_escaped_parentheses_are_drawn_without_backslashes(capsys):
    flags = ["--class-names", "star", "--samples-per-class", "1", "--dry-run"]
    # with weights, and without
    for template in (r"a {name} \(fate\)", r"a {name} \(fate\), red++"):
        assert main([*flags, "--template", template]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert '"prompt": "a star (fate)"' in first and r"\\(fate\\), red++" in second


@pytest.mark.parametrize("template", ["{name:d}", "{name!u}", "{name!r}", "{name:>9}"])
def test_formats_and_conversions_are_refused_by_name(template, capsys):
    assert main(["--class-names", "star", "--samples-per-class", "1", "--dry-run", "--template", template]) == 2
    error = capsys.readouterr().err
    assert "a placeholder is a bare name such as {name}" in error and template in error

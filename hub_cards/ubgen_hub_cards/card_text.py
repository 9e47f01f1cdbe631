"""User text made safe for a card: it shows as it was typed and can be neither Markdown, HTML, YAML nor a path."""

import re
import unicodedata
from pathlib import Path

LONGEST_TEXT = 120
LOCAL_SOURCE = "a local folder"
# letters, digits and what has no meaning to Markdown within a line; all else becomes a character reference
_HARMLESS = re.compile(r"[^\W_]|[ ,'\-]")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# an id on the Hub, with a prefix that names the library and a revision
_PUBLIC_SOURCE = re.compile(r"(?:[\w.-]+:)*" + _HUB_ID.pattern + r"(?:@[\w./-]+)?", re.ASCII)
# names and numbers, which read best as code
_NAME = re.compile(r"[\w.:/ ,+@-]+", re.ASCII)
_TOKEN = re.compile(r"hf(?:_|&#95;)[A-Za-z0-9]{8,}")


def plain_line(text: str) -> str:
    """``text`` on one line of at most ``LONGEST_TEXT`` characters, without control and direction marks."""
    kept = "".join(" " if _is_control(char) else char for char in text)
    line = " ".join(kept.split())
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


def markdown_text(value: object) -> str:
    """``str(value)`` as Markdown, or as a cell of a table, that renders as exactly that text.

    CommonMark gives a numeric character reference no structural meaning, so every character that could have one is
    written as such.
    """
    line = plain_line(str(value))
    # a dot at the end of a word begins no address
    return "".join(
        char
        if _HARMLESS.match(char) or ord(char) > 127 or (char == "." and not line[i + 1 : i + 2].isalpha())
        else f"&#{ord(char)};"
        for i, char in enumerate(line)
    )


def markdown_code(value: object) -> str:
    """``str(value)`` as Markdown, or as a cell of a table: as code where it is made of names and numbers only."""
    line = plain_line(str(value))
    return f"`{line}`" if _NAME.fullmatch(line) else markdown_text(line)


def markdown_block(text: str) -> list[str]:
    """The lines of ``text`` as those of an indented block of code, in which Markdown means nothing."""
    lines = ["".join(char for char in line if not _is_control(char)).rstrip() for line in text.splitlines()]
    return [f"    {line}" if line else "" for line in lines]


def python_literal(text: str) -> str:
    """``text`` as a string literal of one line, in ASCII."""
    return ascii(plain_line(text))


def is_hub_id(source: str) -> bool:
    """Whether ``source`` names a repository on the Hub rather than a folder here."""
    return _HUB_ID.fullmatch(source) is not None and source.isascii() and not Path(source).exists()


def public_source(source: str) -> str:
    """``source``, the name of a model or of a setting, unless it is a path on this machine: then ``LOCAL_SOURCE``."""
    if "/" not in source and "\\" not in source and not source.startswith("~"):
        return source
    # a prefix such as open_clip:local-dir: says that a path follows
    path = source.rpartition(":")[2]
    is_public = _PUBLIC_SOURCE.fullmatch(source) and "local-dir:" not in source and not Path(path).exists()
    return source if is_public else LOCAL_SOURCE


def without_tokens(card: str) -> str:
    """The card with every access token of the Hub in it blotted out."""
    return _TOKEN.sub("hf…", card)


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")

"""Class lists in plain lines: names, with numbers or ids beside them, ImageNet's lines, label maps. No torch."""

import json
import re
from collections.abc import Sequence

from ..files.marked_up_text import read_json
from .class_entries import (
    KNOWN_KEYS,
    NAME_KEYS,
    WNID,
    ClassName,
    are_labels,
    by_number,
    classes_from,
    first_of,
    plain_key,
    with_synonyms,
)
from .class_tables import classes_of_table

# labelme's and VOC's words for pixels of no class
_NO_CLASSES = ("__ignore__", "_background_", "__background__")
# `0: star`, `0 star`, `0,star`, `0=star`, `0. star`; and the other way round
_NUMBER_FIRST = re.compile(r"(\d+)(\s*[:=](?:\s+|(?=\D))|\s*[,;\t]\s*|\s+|[.)]\s*(?=[^\d\s]))(\S.*)")
_NUMBER_LAST = re.compile(r"(\S.*?)(\s*[:=]\s+|(?<!\d)\s*[:=]|\s*[,;\t]\s*|\s+)(\d+)")
# ImageNet's map_clsloc.txt: `n02110185 3 Siberian_husky`
_NUMBERED_SYNSET = re.compile(r"(n\d{8})\s+(\d+)\s+(\S.*)")
# TensorFlow's label map: `item { id: 1 name: 'cat' }`
_ITEM = re.compile(r"\bitem\s*:?\s*\{((?:[^{}\"']|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|\{[^{}]*\})*)\}")
_FIELD = re.compile(r"(\w+)\s*:\s*('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d+)")
_BULLET = re.compile(r"[-*•]\s+(\S.*)")
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'")
_COMMENT = re.compile(r"(?:#|//)(?:\s|#|/).*")
# of Markdown: `|---|---|`, and the line below a title
_RULE = re.compile(r"[|: -]*-{3}[|: -]*|={3,}")
# what a file of another kind begins with, and what it is
_OTHER_KINDS = {
    r"<[!?\w]": "XML or HTML", r"version https://git-lfs": "what Git LFS keeps in place of the file",
    r"\{\\rtf": "RTF", r"%PDF-": "PDF", r"item\s*:?\s*\{": "a label map that could not be read",
}  # fmt: skip
_TITLES = ("name", "names", "classname", "classnames", "classes")


def classes_of_lines(text: str) -> list[ClassName]:
    """The classes of a text, one a line, in the order of their numbers where the lines have some.

    Raises:
        ValueError: lines that are no class list, or numbers that cannot be labels.
    """
    if _ITEM.match(text.lstrip()):
        return _of_label_map(text)
    if kinds := [what for start, what in _OTHER_KINDS.items() if re.match(start, text.lstrip())]:
        raise ValueError(f"it holds {kinds[0]}; give a text with a class in each line.")
    # not str.splitlines, which also splits at characters that may stand in a name
    lines = [line for line in (line.strip() for line in text.split("\n")) if line]
    if any(line.startswith("# label:color") for line in lines[:3]):
        # CVAT's label map of PASCAL VOC: `cat:128,0,0::`
        names = [line.partition(":")[0].strip() for line in lines if not line.startswith("#")]
        return [ClassName(name) for name in names if name not in (*_NO_CLASSES, "background")]
    if lines and lines[0].startswith("{"):
        return classes_from([_json_line(number, line) for number, line in enumerate(lines, 1)])
    _check(lines)
    if len(lines) > 1 and plain_key(lines[0]) in _TITLES:
        lines = lines[1:]
    if bullets := _matched(_BULLET, lines):
        lines = [words for (words,) in bullets]
    if len(lines) > 1 and all(line.endswith(",") for line in lines[:-1]):
        lines = [line.rstrip(", ") for line in lines]
    lines = [line for line in lines if line not in _NO_CLASSES]
    if lines and all(map(_QUOTED.fullmatch, lines)):
        return [ClassName(_unquoted(line)) for line in lines]
    if _is_table(lines):
        return classes_of_table("\n".join(lines), "\t")
    return _numbered(lines) or [_of_line(line) for line in lines]


def _check(lines: Sequence[str]) -> None:
    """Refuse lines of which some would become classes that nobody meant."""
    if comments := [line for line in lines if _COMMENT.fullmatch(line)]:
        raise ValueError(f"the line {comments[0]!r:.60} looks like a comment, and would be a class; remove it.")
    if rules := [line for line in lines if _RULE.fullmatch(line)]:
        raise ValueError(f"the line {rules[0]!r:.60} is of a table or a title in Markdown; give each class a line.")
    if len(lines) == 1 and (parts := [sign for sign in ",;\t|" if sign in lines[0]]) and not WNID.match(lines[0]):
        raise ValueError(
            f"it is one line, {lines[0]!r:.60}, parted by {parts[0]!r}; give each class a line. One class with"
            " synonyms is written as JSON or YAML, with name and synonyms."
        )


def _is_table(lines: Sequence[str]) -> bool:
    """Whether the first line is a header: it has a name and something else that is known of classes."""
    cells = [plain_key(cell) for cell in re.split(r"[,;\t|]", lines[0])] if len(lines) > 1 else []
    return len(cells) > 1 and any(cell in NAME_KEYS for cell in cells) and all(cell in KNOWN_KEYS for cell in cells)


def _numbered(lines: Sequence[str]) -> list[ClassName] | None:
    """The classes of lines that all have a number; None where numbers are parts of the names."""
    if found := _matched(_NUMBERED_SYNSET, lines):
        classes = [ClassName(name.replace("_", " "), class_id) for class_id, _, name in found]
        return by_number([number for _, number, _ in found], classes, "its lines", first=1)
    for form, place in ((_NUMBER_FIRST, 0), (_NUMBER_LAST, 2)):
        found = _matched(form, lines) or []
        numbers, names = ([groups[side] for groups in found] for side in (place, 2 - place))
        # of `digit 0`, `digit 1`, the numbers tell the classes apart
        if not found or len(set(names)) < len(names):
            continue
        first = first_of(numbers)
        are_apart = all(re.search(r"[:=;\t]", groups[1]) for groups in found)
        # `2 stars` and `route 1` are names unless the numbers are labels; `2: stars` and `route: 1` are none
        are_list = are_labels(numbers, first=first) and (first == 0 or (len(lines) > 1 and (place == 0 or are_apart)))
        if are_apart or are_list or (place == 2 and are_labels(numbers, first=1) and "," in found[0][1]):
            return by_number(numbers, [_of_line(_unquoted(name)) for name in names], "its lines", first=first)
    return None


def _of_line(line: str) -> ClassName:
    """A plain line, or one of ImageNet's: ``n01484850 great white shark, white shark, man-eater``."""
    first, _, rest = line.replace("\t", " ").partition(" ")
    first = first.rstrip(":,;")
    if WNID.fullmatch(first) and rest.strip():
        return with_synonyms(rest, first)
    return with_synonyms(line)


def _of_label_map(text: str) -> list[ClassName]:
    """TensorFlow's, which counts from 1 since 0 is the background's."""
    # braces within an item are of keypoints
    items = [dict(_FIELD.findall(re.sub(r"\{[^{}]*\}", "", item))) for item in _ITEM.findall(text)]
    rest = _ITEM.sub("", text).strip()
    named = [(item.get("id", ""), (item.get("display_name") or item.get("name", ""))) for item in items]
    if rest or not all(number.isdecimal() and name for number, name in named):
        raise ValueError("it is a label map with an item that has no id or no name; give it both.")
    names = [re.sub(r"\\(.)", r"\1", name[1:-1]).strip() if name[0] in "'\"" else name for _, name in named]
    classes = [ClassName(name) for name in names]
    return by_number([number for number, _ in named], classes, "its ids", first=1)


def _json_line(number: int, line: str) -> object:
    try:
        return read_json(line, as_text=True)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"line {number} is {line!r:.60}, no JSON ({error}), though the first begins with {{."
        ) from error


def _unquoted(text: str) -> str:
    if not _QUOTED.fullmatch(text):
        return text
    return str(json.loads(text)) if text.startswith('"') else text[1:-1]


def _matched(form: re.Pattern[str], lines: Sequence[str]) -> list[tuple[str, ...]] | None:
    """The groups of every line, where all lines have that form."""
    found = [form.fullmatch(line) for line in lines]
    return [match.groups() for match in found if match] if lines and all(found) else None

"""Word weights in a prompt: ``word++``, ``(some words)--``, ``(some words)1.3``, ``(some words:1.3)``. No torch.

Each + multiplies the weight of what it is attached to by 1.1, each - by 0.9; at least two of them count, so that
"a 4+ review" or "T-shirt" stay text. A backslash before ( ) + - or another backslash makes it plain text.
Parentheses without a weight are plain text. Groups may hold groups: weights multiply.
"""

import re
from dataclasses import dataclass

_SIGNS = re.compile(r"(\+{2,}|-{2,})(?![\w+-])")
_NUMBER_AFTER = re.compile(r"\d+(?:\.\d+)?(?!\w|\.\w)")
_NUMBER_INSIDE = re.compile(r":\s*(\d+(?:\.\d+)?)\s*$")
_ESCAPED = re.compile(r"\\([()+\-\\])")
# a word that signs may be attached to: no space, no bracket
_WORD_AT_END = re.compile(r"(?:\\.|[^\s()])+$")


@dataclass(frozen=True)
class Fragment:
    """A piece of a prompt and its weight, 1 where none is given."""

    text: str
    weight: float = 1.0


def parse_weights(prompt: str) -> list[Fragment]:
    """The prompt's pieces in order, neighbours of one weight joined; their texts hold no syntax any more."""
    joined: list[Fragment] = []
    for piece in _parse(prompt, 1.0):
        text = _ESCAPED.sub(r"\1", piece.text)
        if joined and joined[-1].weight == piece.weight:
            joined[-1] = Fragment(joined[-1].text + text, piece.weight)
        elif text:
            joined.append(Fragment(text, piece.weight))
    return joined


def without_escapes(prompt: str) -> str:
    """A prompt that is not read for weights, with its escaped parentheses as they would be drawn if it were."""
    return re.sub(r"\\([()])", r"\1", prompt)


def plain_text(prompt: str) -> str:
    """The prompt without weights."""
    return "".join(fragment.text for fragment in parse_weights(prompt))


def has_weights(prompt: str) -> bool:
    """Whether anything in the prompt is weighted."""
    return any(fragment.weight != 1.0 for fragment in parse_weights(prompt))


def escape_weights(text: str) -> str:
    """The text such that :func:`plain_text` gives it back and nothing in it is read as a weight."""
    return re.sub(r"([()\\]|\+(?=\+)|(?<=\+)\+|-(?=-)|(?<=-)-)", r"\\\1", text)


def _parse(prompt: str, weight: float) -> list[Fragment]:
    pieces: list[Fragment] = []
    start = position = 0
    while position < len(prompt):
        char = prompt[position]
        if char == "\\":
            position += 2
        elif char == "(" and (close := _closing(prompt, position)) is not None:
            inside, factor, end = _group(prompt, position, close)
            if factor is None:
                position += 1
                continue
            pieces += [Fragment(prompt[start:position], weight), *_parse(inside, weight * factor)]
            start = position = end
        elif char in "+-" and (signs := _SIGNS.match(prompt, position)):
            word = _WORD_AT_END.search(prompt[start:position])
            if word is not None:
                cut = start + word.start()
                pieces += [
                    Fragment(prompt[start:cut], weight),
                    Fragment(word.group(), weight * _factor(signs.group())),
                ]
                start = signs.end()
            position = signs.end()
        else:
            position += 1
    pieces.append(Fragment(prompt[start:], weight))
    return pieces


def _group(prompt: str, start: int, close: int) -> tuple[str, float | None, int]:
    """What the parentheses at ``start`` and ``close`` hold, its factor (None: plain text), and where it ends."""
    inside = prompt[start + 1 : close]
    if signs := _SIGNS.match(prompt, close + 1):
        return inside, _factor(signs.group()), signs.end()
    if number := _NUMBER_AFTER.match(prompt, close + 1):
        return inside, float(number.group()), number.end()
    if number := _NUMBER_INSIDE.search(inside):
        return inside[: number.start()], float(number.group(1)), close + 1
    return inside, None, close + 1


def _closing(prompt: str, start: int) -> int | None:
    depth = position = 0
    for position in range(start, len(prompt)):
        if position and prompt[position - 1] == "\\":
            continue
        depth += (prompt[position] == "(") - (prompt[position] == ")")
        if depth == 0:
            return position
    return None


def _factor(signs: str) -> float:
    return (1.1 if signs[0] == "+" else 0.9) ** len(signs)

"""What other programs read in a prompt and this one draws as words: found, so that users can be told. No torch."""

import re
from collections.abc import Iterable

# of Stable Diffusion's web interfaces, ComfyUI and dynamic prompts
_SYNTAX = (
    (re.compile(r"<(?:lora|lyco|lycoris|hypernet):[^<>]*>", re.IGNORECASE), "give --lora FILE:STRENGTH"),
    (re.compile(r"\bembedding:[\w./-]+"), "give --embeddings FILE=WORD"),
    (re.compile(r"(?<!\w)(?:BREAK|ADDCOMM|ADDBASE|ADDCOL|ADDROW)(?!\w)"), "leave it out"),
    (re.compile(r"(?<!\w)__[A-Za-z][\w/*-]*?__(?!\w)"), "list its values among the attributes of a file of templates"),
    (re.compile(r"\[[^\[\]:|]*:[^\[\]:|]*:\s*\d*\.?\d+\s*\]"), "leave it out"),
)


def foreign_syntax(prompts: Iterable[str]) -> list[str]:
    """One sentence for each kind of syntax of other programs in the prompts, with its first example."""
    found: dict[int, str] = {}
    for prompt in prompts:
        for number, (pattern, _) in enumerate(_SYNTAX):
            if number not in found and (match := pattern.search(prompt)):
                found[number] = match.group()
    return [
        f"{text!r} of a prompt is another program's syntax, and is drawn as words here; {_SYNTAX[number][1]}"
        for number, text in sorted(found.items())
    ]

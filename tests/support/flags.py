"""Command lines of tests that differ in a few flags."""

from collections.abc import Sequence


def with_flags(arguments: Sequence[str], *later: str) -> list[str]:
    """``arguments`` with the flags of ``later`` in place of their own of the same names: a list that is given twice
    is refused."""
    named = {word for word in later if word.startswith("--")}
    kept, skips = [], False
    for word in arguments:
        if word.startswith("--"):
            skips = word in named
        if not skips:
            kept.append(word)
    return [*kept, *later]

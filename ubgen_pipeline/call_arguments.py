"""Checks of the arguments of a call of the pipeline."""

from collections.abc import Sequence


def text_list(argument: str, texts: Sequence[str], *, length: int | None = None) -> list[str]:
    """The texts as a list; ``ValueError`` for one text alone, something else, none, or not ``length`` of them."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{argument} is {texts!r}; give a list of texts.")
    if not texts or (length is not None and len(texts) != length):
        wanted = "at least one" if length is None else f"{length}, one per class"
        raise ValueError(f"{argument} holds {len(texts)} texts; give {wanted}.")
    return list(texts)


def check_counts(**counts: int) -> None:
    """Raise ``ValueError`` naming the first argument that is no integer of at least 1."""
    for argument, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{argument} is {count!r}; give an integer of at least 1.")

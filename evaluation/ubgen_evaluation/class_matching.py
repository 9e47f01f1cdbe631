"""Which class of one list is which of another: by their names, and only where those say nothing by their positions."""

from collections.abc import Sequence

import numpy as np

from ubgen_pipeline.commands.console import say


def class_positions(names: Sequence[str], others: Sequence[str], what: str, others_what: str) -> np.ndarray:
    """For each class its position in the other list ``(len(names),)``, or -1 where that has no such class.

    Names are compared without case, and with ``_`` and ``-`` as blanks. Where no name is in both lists, one list has
    no names, or a name stands for two classes, they are taken by position if there are as many, and a line says so.

    Args:
        names: of the classes; empty where they are not known.
        others: of the classes to find them among; empty where they are not known.
        what, others_what: what the lists belong to, for lines and errors.

    Raises:
        ValueError: lists that share some names but not all of the shorter one, or none and differ in length.
    """
    keys, other_keys = ([_key(name) for name in part] for part in (names, others))
    found = {key: place for place, key in enumerate(other_keys)}
    positions = np.array([found.get(key, -1) for key in keys], dtype=np.int64)
    matched = int((positions >= 0).sum())
    if matched and len(set(keys)) == len(keys) and len(found) == len(other_keys):
        # one list may have classes that the other does not know, not both
        if matched < min(len(keys), len(other_keys)):
            place = int(np.flatnonzero(positions < 0)[0])
            raise ValueError(
                f"{what} has the class {names[place]!r}, which {others_what} does not have, though they share"
                f" {matched}; give both the same names."
            )
        return positions
    if keys and other_keys and len(keys) != len(other_keys):
        raise ValueError(
            f"{what} has {len(keys)} classes and {others_what} {len(other_keys)}, with other names; use those of the"
            " same classes."
        )
    say(f"names do not tell which class of {what} is which of {others_what}: they are matched by their positions")
    return np.arange(max(len(keys), len(other_keys)))


def _key(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())

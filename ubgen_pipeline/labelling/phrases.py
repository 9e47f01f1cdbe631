"""The phrases that a model is told, which class each stands for, and which things are no object of a class.

A phrase that is looked for to be left out ("toy car" beside "car") is a negative one: what the model takes for it
rather than for the class is dropped, and so is what lies where it found the negative phrase more surely.

Shapes: P phrases, those of classes first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..mask_regions import MaskObject

# two regions that share that much of what they cover together show one thing
SAME_THING = 0.5


@dataclass(frozen=True)
class Phrases:
    """What a model is told.

    Attributes:
        asked: the phrases.
        table: ``(P,)`` int64: 1 + the label that each stands for, or -(k + 1) for negative phrase k.
        denied: of each negative phrase, the values of the classes whose objects it is not; empty: of any class.
    """

    asked: list[str]
    table: np.ndarray
    denied: tuple[frozenset[int], ...] = ()

    def of_class(self, label: int | None) -> list[int]:
        """Places of the phrases that matter where that class alone is looked for; all where it is None."""
        kept = range(len(self.asked))
        return [place for place in kept if label is None or self.concerns(int(self.table[place]), 1 + label)]

    def concerns(self, number: int, value: int) -> bool:
        """Whether a number of the table is that class's value, or a negative phrase of that class."""
        return number == value if number > 0 else value in (self.denied[-number - 1] or (value,))

    def settle(self, found: Sequence[MaskObject], *, asked_by_one: bool = False) -> list[MaskObject]:
        """The objects of classes among what was found, without those that a negative phrase has more surely.

        Args:
            found: their values are numbers of the table.
            asked_by_one: whether the phrases were asked for one by one, so that several of a class found the same
                things: of these the surest is kept.
        """
        kept: list[MaskObject] = []
        for item in sorted(found, key=lambda item: -item.score):
            rivals = [
                other
                for other in kept
                if (asked_by_one and other.value == item.value)
                or (other.value < 0 < item.value and self.concerns(other.value, item.value))
            ]
            if not any(_overlap(other.region, item.region) >= SAME_THING for other in rivals):
                kept.append(item)
        return [item for item in found if item.value > 0 and any(item is other for other in kept)]


def read_phrases(class_names: Sequence[str], class_map: Mapping[str, str], negative: Sequence[str] = ()) -> Phrases:
    """The phrases of all classes.

    A class has all phrases that the map leads to it from, or else its own name.

    Args:
        class_names: of the dataset, in label order.
        class_map: the class for each phrase.
        negative: ``PHRASE=CLASS``, or ``PHRASE`` for all classes.

    Raises:
        ValueError: a phrase of two classes, one that is negative and not, or a class that the dataset lacks.
    """
    asked: list[str] = []
    table: list[int] = []
    for label, name in enumerate(class_names):
        phrases = [phrase for phrase, target in class_map.items() if target == name] or [name]
        for phrase in phrases:
            if phrase in asked:
                other = class_names[table[asked.index(phrase)] - 1]
                raise ValueError(
                    f"class_map has the phrase {phrase!r} for {name!r}, and {other!r} is looked for by it, too; give"
                    " one of them another."
                )
            asked.append(phrase)
            table.append(1 + label)
    denied: dict[str, set[int]] = {}
    for entry in negative:
        phrase, sign, target = (part.strip() for part in entry.partition("="))
        if not phrase or (sign and not target):
            raise ValueError(f"negative_phrases holds {entry!r}; write PHRASE, or PHRASE=CLASS.")
        if phrase in asked:
            other = class_names[table[asked.index(phrase)] - 1]
            raise ValueError(
                f"negative_phrases holds {phrase!r}, by which {other!r} is looked for; give one of them another."
            )
        if target and target not in class_names:
            raise ValueError(f"negative_phrases leads to {target!r}, which is none of the dataset's classes.")
        if (phrase in denied) and (not target or not denied[phrase]):
            raise ValueError(f"negative_phrases has {phrase!r} for all classes and once more; keep one.")
        denied.setdefault(phrase, set()).update({1 + list(class_names).index(target)} if target else set())
    numbers = [*table, *(-1 - number for number in range(len(denied)))]
    return Phrases([*asked, *denied], np.array(numbers), tuple(frozenset(values) for values in denied.values()))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two regions ``(H, W)`` bool."""
    return float((one & other).sum() / max((one | other).sum(), 1))

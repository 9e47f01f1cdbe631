"""Choices of k of n values in a template, in the words of dynamicprompts: ``{2$$red|green|blue}``. No torch.

    {red|blue}                    one of them
    {2$$red|green|blue}           two of them, with ", " between
    {2$$ and $$red|green|blue}    with " and " between
    {0-2$$red|green}              none, one or two
    {2$$colour}                   two values of the attribute ``colour``

Values keep the order in which they are listed, so that two of them make one choice and not two.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

# more of them than anybody can draw, and few enough to be counted by len()
MAX_CHOICES = 10**15
# of a value, as dynamicprompts has it
_WEIGHT = re.compile(r"\d*\.?\d+::")
_NUMBERS = re.compile(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*")


@dataclass(frozen=True)
class Choice:
    """What stands between braces, taken apart.

    Attributes:
        text: as it is written.
        low, high: how many values are chosen, at least and at most.
        separator: what is written between them.
        options: the values; or the name of the attribute that has them, alone.
    """

    text: str
    low: int
    high: int
    separator: str
    options: tuple[str, ...]

    @property
    def attribute(self) -> str | None:
        """The attribute whose values are chosen from; None where the template lists them itself."""
        return self.options[0] if len(self.options) == 1 else None

    def of(self, values: Sequence[str]) -> "Combinations":
        """Every choice of these values.

        Raises:
            ValueError: more are asked for than there are, one of several that stands twice, or too many choices.
        """
        if self.high > 1 and (twice := [value for value in dict.fromkeys(values) if values.count(value) > 1]):
            raise ValueError(
                f"{{{self.text}}} asks for {self.high} of several values, of which {twice[0]!r} stands twice; keep one"
                " of them."
            )
        if self.high > len(values):
            raise ValueError(
                f"{{{self.text}}} asks for {self.high} of {len(values)} values; ask for fewer, or list more."
            )
        found = Combinations(values, self.low, self.high, self.separator)
        if (number := found.count_all()) > MAX_CHOICES:
            raise ValueError(f"{{{self.text}}} has {number:,} choices; ask for fewer values, or list fewer.")
        return found


class Combinations(Sequence[str]):
    """The choices of ``low`` to ``high`` of the values, few before many, each kind in the values' order.

    None of them is made before it is asked for.
    """

    def __init__(self, values: Sequence[str], low: int, high: int, separator: str):
        self._values, self._sizes, self._separator = tuple(values), range(low, high + 1), separator

    def count_all(self) -> int:
        """How many there are, however many."""
        return sum(math.comb(len(self._values), size) for size in self._sizes)

    def __len__(self) -> int:
        return self.count_all()

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        for size in self._sizes:
            if 0 <= place < (number := math.comb(len(self._values), size)):
                return self._separator.join(self._values[i] for i in _subset(len(self._values), size, place))
            place -= number
        raise IndexError(index)


def parse_choice(text: str) -> Choice | None:
    """The choice that the text between two braces stands for; None where it is none.

    Raises:
        ValueError: one that cannot be read.
    """
    parts = text.split("$$")
    if len(parts) == 1:
        options = text.split("|")
        return Choice(text, 1, 1, ", ", _checked(text, options)) if len(options) > 1 else None
    numbers = _NUMBERS.fullmatch(parts[0])
    if numbers is None or len(parts) > 3:
        raise ValueError(f"{{{text}}} is no choice; write {{2$$a|b|c}}, {{1-2$$a|b|c}} or {{2$$ and $$a|b|c}}.")
    low = int(numbers[1])
    high = low if numbers[2] is None else int(numbers[2])
    if low > high or high == 0:
        raise ValueError(f"{{{text}}} asks for {parts[0].strip()} values; give at least 1, the smaller number first.")
    return Choice(text, low, high, ", " if len(parts) == 2 else parts[1], _checked(text, parts[-1].split("|")))


def _checked(text: str, options: Sequence[str]) -> tuple[str, ...]:
    options = tuple(option.strip() for option in options)
    if weighted := [option for option in options if _WEIGHT.match(option)]:
        raise ValueError(
            f"{{{text}}} has the value {weighted[0]!r}, with a weight of dynamicprompts; weights are not read here:"
            " leave it out, or write a value of {red|red|blue} twice."
        )
    if not all(options):
        raise ValueError(f"{{{text}}} has an empty value; write {{0-1$$…}} where a value may be left out.")
    return options


def _subset(n: int, size: int, place: int) -> list[int]:
    """The subset of that size of 0, …, n - 1 at that place in the order of ``itertools.combinations``."""
    chosen: list[int] = []
    for candidate in range(n):
        if len(chosen) == size:
            break
        with_it = math.comb(n - candidate - 1, size - len(chosen) - 1)
        if place < with_it:
            chosen.append(candidate)
        else:
            place -= with_it
    return chosen

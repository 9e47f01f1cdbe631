"""The statistics of a dataset card: figures of its rows with plots small enough for a cell of a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Distribution:
    """How a number is distributed.

    Attributes:
        name: what is counted or measured, as plain text; its unit, too.
        least, mean, most: of the values.
        counts: of the values in equally wide bins from ``least`` to ``most``; or of other things in their order.
    """

    name: str
    least: float
    mean: float
    most: float
    counts: Sequence[int]


@dataclass(frozen=True)
class ContextEntropy:
    """How varied the values are that one placeholder of the prompts was filled with.

    Attributes:
        name: of the placeholder.
        num_values: different ones.
        bits: entropy of the values in all rows.
        bits_within_class: the mean over the classes of the entropy in their rows. Far below ``bits``, it says that
            classes have contexts of their own.
    """

    name: str
    num_values: int
    bits: float
    bits_within_class: float

    @property
    def most_bits(self) -> float:
        """Entropy where every value is as frequent as any other."""
        return log2(self.num_values)


@dataclass(frozen=True)
class Statistics:
    """What a card says of the rows; either may be empty."""

    distributions: Sequence[Distribution] = ()
    contexts: Sequence[ContextEntropy] = ()

    def __bool__(self) -> bool:
        return bool(self.distributions or self.contexts)


def small_plot(counts: Sequence[int]) -> str:
    """A bar for each count, as high as its share of the largest: eight heights, a blank for zero."""
    largest = max(counts, default=0)
    # what is there is seen, however little it is
    return "".join(_BARS[-(-count * len(_BARS) // largest) - 1] if count else " " for count in counts)


def short_figure(value: float) -> str:
    """A number with as many digits as a table needs."""
    return str(int(value)) if value == int(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"

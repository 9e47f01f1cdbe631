"""How a sample is drawn more diversely without training: the numbers, checked. No torch.

CADS (Sadat et al. 2024, arXiv 2310.17347) adds noise to the conditioning while the image's composition is decided.
Guidance within an interval of noise levels (Kynkäänniemi et al. 2024, arXiv 2404.07724) leaves it out where it narrows
what is drawn, and where it changes nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

DIVERSITY_METHODS = ("cads",)


@dataclass(frozen=True)
class Cads:
    """The schedule of condition-annealed sampling, with the paper's symbols (section 3.1). Times count down from 1,
    noise alone, to 0.

    Attributes:
        tau1: time up to which the conditioning is whole.
        tau2: time from which on it is noise alone.
        scale: s, the noise's deviation, in deviations of the conditioning itself.
        psi: share of the rescaling to the conditioning's own mean and deviation, from 0 to 1.

    Raises:
        ValueError: a number out of range.
    """

    tau1: float = 0.6
    tau2: float = 0.9
    scale: float = 0.25
    psi: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.tau1 <= self.tau2 <= 1:
            raise ValueError(
                f"cads_tau1 is {self.tau1} and cads_tau2 {self.tau2}; give times with 0 <= tau1 <= tau2 <= 1."
            )
        if not 0 <= self.scale < math.inf:
            raise ValueError(f"cads_scale is {self.scale}; give 0 or more.")
        if not 0 <= self.psi <= 1:
            raise ValueError(f"cads_psi is {self.psi}; give a share from 0 to 1.")

    def gamma(self, time: float) -> float:
        """The share of the conditioning that is left at a time in [0, 1] (Eq. 2): linear between tau1 and tau2."""
        if time <= self.tau1:
            return 1.0
        if time >= self.tau2:
            return 0.0
        return (self.tau2 - time) / (self.tau2 - self.tau1)


def as_cads(diversity: "str | Cads | None") -> Cads | None:
    """The schedule that the argument ``diversity`` of a call stands for.

    Raises:
        ValueError: no such method.
    """
    if diversity is None or isinstance(diversity, Cads):
        return diversity
    if diversity not in DIVERSITY_METHODS:
        raise ValueError(f"diversity is {diversity!r}; choose one of {', '.join(DIVERSITY_METHODS)}.")
    return Cads()


def check_interval(interval: Sequence[float] | None) -> tuple[float, float] | None:
    """The lowest and the highest noise level with guidance, as shares of noise in [0, 1].

    Raises:
        ValueError: not two such numbers, the lower one first.
    """
    if interval is None:
        return None
    values = [float(value) for value in interval]
    if len(values) != 2 or not 0 <= values[0] < values[1] <= 1:
        raise ValueError(
            f"guidance_interval is {list(interval)}; give two shares of noise from 0 to 1, the lower one first."
        )
    return values[0], values[1]

"""Recognises reward hacking: a reward that is trained on rises while one that is not, or the diversity, falls.

A figure's trend is the straight line fitted by least squares to its last ``window`` evaluations. It counts only where
the line's change over the window is at least ``NUM_ERRORS`` times the change's standard error, so noise does not fire.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

NUM_ERRORS = 4.0


@dataclass(frozen=True)
class Evaluation:
    """Figures on the held-out samples after update ``step``, higher being better; ``heldout`` was never trained on."""

    step: int
    trained: dict[str, float]
    heldout: dict[str, float]


@dataclass(frozen=True)
class Trend:
    """A fitted line: its value at the window's first and last evaluation, and the standard error of the change."""

    start: float
    end: float
    error: float

    @property
    def is_rise(self) -> bool:
        return self.end - self.start > 0 and self.end - self.start >= NUM_ERRORS * self.error

    def is_fall(self, tolerance: float) -> bool:
        """Whether it falls by more than ``tolerance`` times its size at the start."""
        fall = self.start - self.end
        return fall > tolerance * abs(self.start) and fall >= NUM_ERRORS * self.error


def fit_trend(steps: Sequence[int], values: Sequence[float]) -> Trend:
    """The least-squares line through ``values`` over ``steps``, at least three of each, the steps rising."""
    count, span = len(steps), steps[-1] - steps[0]
    mean_step, mean_value = sum(steps) / count, sum(values) / count
    spread = sum((step - mean_step) ** 2 for step in steps)
    slope = sum((step - mean_step) * value for step, value in zip(steps, values)) / spread
    residuals = [value - mean_value - slope * (step - mean_step) for step, value in zip(steps, values)]
    variance = sum(residual**2 for residual in residuals) / (count - 2)
    start = mean_value + slope * (steps[0] - mean_step)
    return Trend(start, start + slope * span, span * math.sqrt(variance / spread))


class RewardAlarm:
    """Watches evaluations as they come.

    Args:
        window: evaluations that a trend is fitted to; until there are as many, nothing fires.
        tolerance: share of its size that a held-out figure may lose over the window.

    Raises:
        ValueError: a window below 4, where a line fits noise too often, or a negative tolerance.
    """

    def __init__(self, window: int = 5, tolerance: float = 0.05):
        check_alarm_settings(window, tolerance, "")
        self.window = window
        self.tolerance = tolerance
        self.history: list[Evaluation] = []

    def update(self, evaluation: Evaluation) -> list[str]:
        """Take one evaluation in; returns a sentence for each pair of a rising and a falling figure, or nothing."""
        self.history = [*self.history, evaluation][-self.window :]
        if len(self.history) < self.window:
            return []
        rising = {name: trend for name, trend in self._trends("trained").items() if trend.is_rise}
        falling = {name: trend for name, trend in self._trends("heldout").items() if trend.is_fall(self.tolerance)}
        first, last = self.history[0].step, self.history[-1].step
        return [
            f"from update {first} to {last} the trained reward {up!r} rose from {rise.start:.4g} to {rise.end:.4g} "
            f"while {down!r}, which is not trained on, fell from {fall.start:.4g} to {fall.end:.4g}"
            for up, rise in rising.items()
            for down, fall in falling.items()
        ]

    def state_dict(self) -> list[dict[str, Any]]:
        """The window's evaluations."""
        return [asdict(evaluation) for evaluation in self.history]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.history = [Evaluation(**evaluation) for evaluation in state][-self.window :]

    def _trends(self, side: str) -> dict[str, Trend]:
        """Of the figures that every evaluation of the window holds: a resumed run may have added some."""
        steps = [evaluation.step for evaluation in self.history]
        series = [getattr(evaluation, side) for evaluation in self.history]
        names = [name for name in series[-1] if all(name in figures for figures in series)]
        return {name: fit_trend(steps, [figures[name] for figures in series]) for name in names}


def check_alarm_settings(window: int, tolerance: float, prefix: str) -> None:
    """Raise ``ValueError`` for a window below 4 or a negative tolerance; the settings' names begin with ``prefix``."""
    if window < 4:
        raise ValueError(f"{prefix}window is {window}; choose 4 evaluations or more: a line fits fewer by chance.")
    if tolerance < 0:
        raise ValueError(f"{prefix}tolerance is {tolerance}; choose 0 or more, as a share of the held-out reward.")

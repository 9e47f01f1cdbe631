"""Advantages: a sample's reward held against others, the recent ones of its class or those of its group.

:class:`ClassStatistics` is DDPO's (Black et al. 2023, arXiv 2305.13301), :func:`group_advantages` GRPO's (Shao et al.
2024, arXiv 2402.03300).

Shapes: B samples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

# keeps a class whose rewards are all equal from dividing by 0; its advantages are 0
_SMALLEST_DEVIATION = 1e-6


class ClassStatistics:
    """A window of each class's latest rewards, whose mean and deviation normalise that class's new ones.

    Args:
        window: rewards kept of each class.
        min_count: a class with fewer of them is normalised by the whole batch instead.

    Raises:
        ValueError: a count below 1, or ``min_count`` above ``window``, which it could never reach.
    """

    def __init__(self, window: int = 32, min_count: int = 16):
        check_statistics(window, min_count, "")
        self.window, self.min_count = window, min_count
        self._rewards: dict[int, list[float]] = {}

    def advantages(self, rewards: Sequence[float], labels: Sequence[int]) -> np.ndarray:
        """Take ``rewards (B,)`` of classes ``labels (B,)`` into the windows; returns their advantages ``(B,)``.

        A reward counts among its own peers, as in the released code: a class's first full window would have none.
        """
        values, classes = np.asarray(rewards, dtype=np.float64), np.asarray(labels)
        advantages = np.empty_like(values)
        for label in np.unique(classes):
            own = classes == label
            recent = [*self._rewards.get(int(label), []), *values[own].tolist()][-self.window :]
            self._rewards[int(label)] = recent
            peers = np.asarray(recent) if len(recent) >= self.min_count else values
            advantages[own] = _normalised(values[own], peers)
        return advantages

    def state_dict(self) -> dict[str, Any]:
        """The windows, for a checkpoint."""
        return {"rewards": {label: list(rewards) for label, rewards in self._rewards.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._rewards = {int(label): list(rewards)[-self.window :] for label, rewards in state["rewards"].items()}


def check_statistics(window: int, min_count: int, prefix: str) -> None:
    """Raise ``ValueError`` unless 1 <= ``min_count`` <= ``window``; the settings' names begin with ``prefix``."""
    if not 1 <= min_count <= window:
        raise ValueError(
            f"{prefix}min_count is {min_count} and {prefix}window is {window}; choose a count from 1 to the window."
        )


def group_advantages(rewards: Sequence[float], group_size: int) -> np.ndarray:
    """Advantages ``(B,)`` within consecutive groups of ``group_size``: (reward - group's mean) / group's deviation.

    Raises:
        ValueError: a group of fewer than two, which has no deviation, or B no multiple of ``group_size``.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if group_size < 2:
        raise ValueError(
            f"group_size is {group_size}; a group's rewards are compared with each other: choose 2 or more."
        )
    if len(values) % group_size:
        raise ValueError(f"{len(values)} rewards do not split into groups of group_size = {group_size}.")
    groups = values.reshape(-1, group_size)
    return np.concatenate([_normalised(group, group) for group in groups]) if len(groups) else values


def _normalised(values: np.ndarray, peers: np.ndarray) -> np.ndarray:
    return (values - peers.mean()) / (peers.std() + _SMALLEST_DEVIATION)

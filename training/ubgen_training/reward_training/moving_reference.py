"""A reference model that follows the trained one where held-out figures say that it may (GARDO, arXiv 2512.24138).

A term that holds the model near the untrained one holds it near that one's faults, too. So where every held-out reward
and the diversity rise above what they were when the reference last moved, it takes a step towards the trained model.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..checkpoints.weight_average import WeightAverage
from .guards import DIVERSITY


class MovingReference(WeightAverage):
    """The trained weights' average over the evaluations at which it may move; see :class:`WeightAverage`.

    Args:
        module: its trained weights are followed.
        decay: share of itself that the reference keeps at each move, in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float):
        super().__init__(module, decay)
        self.best: dict[str, float] = {}

    @property
    def has_moved(self) -> bool:
        return self.num_updates > 0

    def current_decay(self) -> float:
        """The same at every move."""
        return self.decay

    def look(self, heldout: Mapping[str, float]) -> bool:
        """Take the held-out figures of an evaluation in, the first of them before any update; whether it moved."""
        if not self.best:
            self.start()
            self.best = dict(heldout)
            return False
        if not all(heldout[name] > value for name, value in self.best.items()):
            return False
        self.update()
        self.best = dict(heldout)
        return True

    def state_dict(self) -> dict[str, Any]:
        """The base's, with the figures at the last move."""
        return {**super().state_dict(), "best": dict(self.best)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        super().load_state_dict(state)
        self.best = dict(state["best"])


def check_moving_reference(heldout: list[str], *, has_encoder: bool, is_sharded: bool) -> None:
    """Raise ``ValueError`` where a reference could not move.

    Args:
        heldout: names of the held-out rewards.
        has_encoder: whether diversity is measured.
        is_sharded: whether the weights lie in parts on several processes.
    """
    if not heldout or not has_encoder:
        raise ValueError(
            f"reference_decay is given, but held-out rewards are {heldout} and {DIVERSITY} is "
            f"{'measured' if has_encoder else 'not measured'}; name one or more in heldout_reward_funcs, and use a "
            "reward that reads clip_model, or leave reference_decay out."
        )
    if is_sharded:
        raise ValueError("reference_decay is given, but weights are sharded; train with DDP, or leave it out.")

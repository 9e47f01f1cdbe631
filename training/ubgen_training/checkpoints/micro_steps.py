"""Counts the micro-batches of an update, so that each one's random choices hang on its number."""


class MicroSteps:
    """The number of a micro-batch within its update.

    Args:
        first: the number of the very first micro-batch of the first update. Trainers whose first version began there
            with 1 keep to it, since their noise hangs on it; every later update begins with 0.
    """

    def __init__(self, first: int = 0):
        self._step, self._number = 0, first - 1

    def next(self, step: int) -> int:
        """The number of the micro-batch that begins now, after ``step`` updates."""
        self._number = self._number + 1 if step == self._step else 0
        self._step = step
        return self._number

    def restart(self) -> None:
        """Begin the update with 0, as where a resumed run does it over."""
        self._step, self._number = -1, -1

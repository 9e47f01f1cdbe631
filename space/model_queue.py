"""The line of requests for the one model: who waits, how many are ahead of them, and who is turned away.

Gradio's own queue counts every event of the page, so that a full one would stop clicks as well. Here only what the
model has to do takes a place, one for each visitor.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass

FULL = "Too many requests wait; try again in a moment."
ONE_EACH = "Your other request is not over yet; wait for it, or stop it."
# how often a waiting request looks whether it is its turn, and how often it shows that it still waits, in seconds
LOOK_EVERY, TELL_EVERY = 0.1, 2.0


@dataclass(eq=False)
class Place:
    """A place in the line; the first one is the model's."""

    queue: "ModelQueue"
    visitor: str
    address: str

    @property
    def ahead(self) -> int | None:
        """Requests ahead of this one, 0 when it is its turn; None when it was left."""
        return self.queue.ahead_of(self)

    def leave(self) -> None:
        """Give the place up; twice is no error."""
        self.queue.remove(self)


class ModelQueue:
    """One line for all visitors.

    Args:
        max_waiting: requests that may wait behind the one that the model works on.
    """

    def __init__(self, max_waiting: int):
        self.max_waiting = max_waiting
        # addresses are shared, so several visitors may come from one, but it must not fill the line
        self.max_of_address = max(2, (max_waiting + 1) // 2)
        self._places: list[Place] = []
        self._lock = threading.Lock()

    def join(self, visitor: str, address: str = "") -> Place:
        """A place at the end of the line.

        Args:
            visitor: one page, which has at most one place.
            address: that the visitor comes from; empty where it is not known.

        Raises:
            ValueError: the line is full, or the visitor has a place already.
        """
        with self._lock:
            if any(place.visitor == visitor for place in self._places):
                raise ValueError(ONE_EACH)
            of_address = sum(place.address == address for place in self._places) if address else 0
            if len(self._places) > self.max_waiting or of_address >= self.max_of_address:
                raise ValueError(FULL)
            place = Place(self, visitor, address)
            self._places.append(place)
            return place

    def ahead_of(self, place: Place) -> int | None:
        """See :attr:`Place.ahead`."""
        with self._lock:
            return self._places.index(place) if place in self._places else None

    def remove(self, place: Place) -> None:
        """See :meth:`Place.leave`."""
        with self._lock:
            if place in self._places:
                self._places.remove(place)

    async def turn(self, place: Place) -> AsyncIterator[int]:
        """Waits for the place's turn, or until it is left; yields how many are ahead when that changes, and now and
        then, so that a visitor who is gone is noticed."""
        told, silent = None, 0.0
        while ahead := place.ahead:
            if ahead != told or silent >= TELL_EVERY:
                yield ahead
                told, silent = ahead, 0.0
            await asyncio.sleep(LOOK_EVERY)
            silent += LOOK_EVERY


def waiting_text(ahead: int) -> str:
    """What a visitor reads who waits."""
    return f"Waiting for the model: {ahead} {'request is' if ahead == 1 else 'requests are'} ahead of yours."

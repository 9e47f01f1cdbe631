"""Work done ahead of its consumer in threads, in order and bounded: drawing never waits for encoding and writing."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_threads: int, num_ahead: int
) -> Iterator[Result]:
    """``map(function, items)`` in threads that run ahead of whoever iterates.

    Results come in the order of ``items``, whichever is done first; an exception comes in its item's place, and what
    follows is dropped. Closing the iterator cancels what has not begun and waits for what has.

    Args:
        function: called in one of the threads.
        items: read in the caller's thread.
        num_threads: calls at the same time.
        num_ahead: finished or running calls whose results were not taken; what bounds the memory.
    """
    executor = ThreadPoolExecutor(num_threads, thread_name_prefix="ubgen")
    waiting: deque[Future[Result]] = deque()
    remaining = iter(items)
    try:
        while True:
            while len(waiting) < num_ahead:
                try:
                    waiting.append(executor.submit(function, next(remaining)))
                except StopIteration:
                    break
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)

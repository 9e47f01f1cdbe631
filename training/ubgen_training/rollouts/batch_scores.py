"""Scores of a rollout's batches, which threads compute while the next batches are drawn."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Scores = TypeVar("Scores")


class BatchScores(Generic[Scores]):
    """Calls that score batches, in threads where there are some, and their answers in the order of the calls.

    A context: when it is left by an error, calls that did not begin are dropped, and one that runs is waited for.

    Args:
        num_workers: threads; with 0 a call is made at once, where it is asked for.
    """

    def __init__(self, num_workers: int):
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="reward") if num_workers else None
        self._answers: list[Future[Scores]] = []

    def __enter__(self) -> "BatchScores[Scores]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def add(self, score: Callable[..., Scores], *arguments: object) -> None:
        """Have ``score(*arguments)`` called.

        Raises:
            Exception: what an earlier call raised, as soon as it is known, so that no more is drawn in vain.
        """
        if self._threads is None:
            answer: Future[Scores] = Future()
            answer.set_result(score(*arguments))
        else:
            answer = self._threads.submit(score, *arguments)
        self._answers.append(answer)
        for earlier in self._answers:
            if earlier.done():
                earlier.result()

    def all(self) -> list[Scores]:
        """Every answer; waits for those that are not there yet.

        Raises:
            Exception: what a call raised.
        """
        return [answer.result() for answer in self._answers]

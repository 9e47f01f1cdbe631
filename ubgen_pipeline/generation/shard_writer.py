"""Missing shards are drawn, encoded and written at the same time, in threads that run ahead of the writer.

:func:`write_shards` is the loop over shards; a batch that does not fit the memory becomes smaller.
:func:`in_order_ahead` is the threads.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any, TypeVar

from ..commands.stopwatch import stage
from ..dataset.shards import DatasetShards, Shard

Rows = list[dict[str, Any]]
Item = TypeVar("Item")
Result = TypeVar("Result")


def write_shards(
    shards: DatasetShards,
    numbers: Sequence[int],
    rows_of: Callable[[range, int], Rows],
    features: Any,
    *,
    batch_size: int,
    num_threads: int,
    report: Callable[[int], None],
    written: Callable[[Shard], None] = lambda shard: None,
) -> None:
    """Write those shards, in order. Batches start with their shard, so that it does not depend on the others.

    Args:
        shards: of the dataset, opened.
        numbers: of the shards to write.
        rows_of: ``(sample indices, batch size) -> rows`` of at most so many samples; called in ``num_threads``
            threads, a few batches ahead of what is written.
        features: ``datasets.Features`` of the rows.
        batch_size: to begin with; halved whenever the memory is not enough, and noted in the manifest.
        num_threads: batches drawn and encoded at the same time.
        report: called with the number of rows that were just taken.
        written: called with each shard that was committed.

    Raises:
        ValueError: one sample at a time does not fit the memory either.
    """
    left = [shards.shards[number] for number in numbers]
    while left:
        size = batch_size
        batches = (batch for shard in list(left) for batch in _batches(shard, size))
        drawn = in_order_ahead(
            lambda batch, size=size: rows_of(batch, size), batches, num_threads=num_threads, num_ahead=num_threads + 2
        )
        try:
            with closing(drawn):  # pyright: ignore[reportArgumentType]
                while left:
                    num_batches = -(-(left[0].stop - left[0].start) // size)
                    rows = _reported(islice(drawn, num_batches), report)
                    with stage("writing"):
                        shards.write(left[0], rows, features, {"batch_size": size})
                        written(left.pop(0))
        except (RuntimeError, MemoryError) as error:
            from ..inference.prepared_pipeline import is_out_of_memory, lowered_batch_size

            if not is_out_of_memory(error):
                raise
            batch_size = lowered_batch_size(size)
            warnings.warn(f"the memory is not enough for batch_size {size}; going on with {batch_size}.", stacklevel=2)
            shards.lower_batch_size(batch_size)
        if left and batch_size < size:
            _free_device_memory()


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


def _batches(shard: Shard, size: int) -> Iterator[range]:
    for start in range(shard.start, shard.stop, size):
        yield range(start, min(start + size, shard.stop))


def _reported(batches: Iterator[Rows], report: Callable[[int], None]) -> Iterator[Mapping[str, Any]]:
    while True:
        # the threads that draw are timed themselves
        with stage(None):
            rows = next(batches, None)
        if rows is None:
            return
        yield from rows
        report(len(rows))


def _free_device_memory() -> None:
    # called once the exception is gone, whose frames held the tensors of the batch
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()

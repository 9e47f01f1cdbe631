"""Work ahead in threads: order, bounds, failures and an early end."""

import threading
import time
from contextlib import closing

import pytest

from ubgen_pipeline.generation.shard_writer import in_order_ahead


def test_results_come_in_order_whichever_is_done_first():
    def slow_first(number):
        time.sleep(0.05 if number == 0 else 0)
        return number * number

    done = in_order_ahead(slow_first, range(20), num_threads=4, num_ahead=6)
    assert list(done) == [number * number for number in range(20)]


def test_runs_ahead_but_not_further_than_asked():
    started = []
    results = in_order_ahead(started.append, range(100), num_threads=2, num_ahead=5)
    next(results)
    deadline = time.monotonic() + 5
    while len(started) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(started) == 5
    results.close()


def test_calls_overlap():
    both = threading.Barrier(2, timeout=5)
    assert len(list(in_order_ahead(lambda _: both.wait(), range(4), num_threads=2, num_ahead=4))) == 4


def test_an_exception_comes_in_its_place():
    def fails_at_three(number):
        return 1 // (number - 3)

    taken = []
    with pytest.raises(ZeroDivisionError):
        for result in in_order_ahead(fails_at_three, range(9), num_threads=3, num_ahead=6):
            taken.append(result)
    assert len(taken) == 3


def test_closing_early_leaves_no_thread():
    before = threading.active_count()
    with closing(in_order_ahead(lambda number: number, range(1000), num_threads=3, num_ahead=4)) as results:
        assert next(results) == 0
    assert threading.active_count() == before

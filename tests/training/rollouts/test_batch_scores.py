"""Scores that threads compute: their order, that they run beside what comes next, and how an error gets out."""

import threading

import pytest

from ubgen_training.rollouts.batch_scores import BatchScores

SECONDS = 30


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_answers_come_in_the_order_of_the_calls(num_workers):
    last = threading.Event()

    def score(number):
        # with threads the first one ends last
        if number == 0 and num_workers > 1:
            assert last.wait(SECONDS)
        if number == 4:
            last.set()
        return number * 10

    with BatchScores(num_workers) as scores:
        for number in range(5):
            scores.add(score, number)
        assert scores.all() == [0, 10, 20, 30, 40]


def test_a_call_runs_while_the_caller_goes_on():
    drawn = threading.Event()
    with BatchScores(1) as scores:
        scores.add(drawn.wait, SECONDS)
        drawn.set()
        assert scores.all() == [True]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_is_raised_with_the_next_call(num_workers):
    def fail():
        raise FloatingPointError("step 3: a reward is not finite")

    asked = 0
    with pytest.raises(FloatingPointError, match="step 3"), BatchScores(num_workers) as scores:
        while asked < 10_000_000:
            asked += 1
            scores.add(fail)
    assert num_workers or asked == 1


def test_calls_that_did_not_begin_are_dropped_with_an_error():
    begun, release = [], threading.Event()

    def score(number):
        begun.append(number)
        assert release.wait(SECONDS)

    with pytest.raises(RuntimeError, match="drawing"), BatchScores(1) as scores:
        for number in range(3):
            scores.add(score, number)
        while not begun:
            pass
        threading.Timer(0.05, release.set).start()
        raise RuntimeError("drawing failed")
    assert begun == [0]

"""Seconds by stage: nested stages, threads apart, nothing where no run is timed, and a trace that viewers open."""

import json
import threading
import time

import pytest

from ubgen_pipeline.commands import console, stopwatch
from ubgen_pipeline.commands.stopwatch import STAGES, stage, timed_run


class _Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr(stopwatch.time, "perf_counter", clock)
    monkeypatch.setattr(console.time, "sleep", clock.sleep)
    return clock


def test_nested_stages_count_apart(clock):
    with timed_run() as watch:
        with stage("drawing"):
            clock.now += 3
            with stage("decoding"):
                clock.now += 2
                with stage(None):
                    clock.now += 10
            clock.now += 1
        clock.now += 5
    assert watch.elapsed == 21
    assert watch.seconds() == {**dict.fromkeys(STAGES, 0.0), "drawing": 4.0, "decoding": 2.0}


def test_a_stage_ends_with_an_error_and_counts_no_other_run(clock):
    with stage("drawing"):
        clock.now += 7
    with timed_run() as watch, pytest.raises(RuntimeError), stage("writing"):
        clock.now += 1
        raise RuntimeError
    with stage("writing"):
        clock.now += 1
    assert watch.seconds()["writing"] == 1 and watch.seconds()["drawing"] == 0


def test_who_waits_says_for_what_and_it_is_counted(clock, capsys):
    with timed_run() as watch:
        console.pause(4, "s3://bucket/d, where writing failed (timed out)")
        console.WaitingNote(lambda: "rank 1").wait(3)
    assert watch.seconds()["waiting"] == 7
    assert (
        "ubgen: waiting for s3://bucket/d, where writing failed (timed out); again in 4 s" in capsys.readouterr().err
    )


def test_the_trace_has_every_stage_of_every_thread():
    def draw():
        with stage("drawing"):
            time.sleep(0.02)

    with timed_run(keeps_trace=True) as watch:
        thread = threading.Thread(target=draw)
        thread.start()
        with stage("writing"):
            time.sleep(0.01)
        thread.join()
    events = json.loads(watch.trace())["traceEvents"]
    assert {event["name"] for event in events} == {"drawing", "writing"} and len(
        {event["tid"] for event in events}
    ) == 2
    seconds = watch.seconds()
    for event in events:
        assert event["ph"] == "X" and event["ts"] >= 0
        assert event["dur"] / 1e6 == pytest.approx(seconds[event["name"]], rel=1e-6)

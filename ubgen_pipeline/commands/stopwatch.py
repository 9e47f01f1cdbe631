"""Where the time of a run goes: seconds of each stage, and a trace of them for viewers of traces.

    loading     libraries and the model, and settling how it draws
    encoding    prompts, by the text encoders
    drawing     denoising
    decoding    latents to images
    writing     image files, parquet files, and sending them to where they are kept
    waiting     for other processes, a store or the Hub

Stages nest: within another one the outer stage stands still. Threads count apart, so that the seconds of all stages
may be more than those of the run. On a GPU the stages that compute are timed there, by its own events.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STAGES = ("loading", "encoding", "drawing", "decoding", "writing", "waiting")
# events of a GPU that are kept before they are read
_EVENTS_AT_ONCE = 64

_running: "Stopwatch | None" = None


class Stopwatch:
    """Seconds by stage of one run, whose threads report to it by :func:`stage`.

    Args:
        keeps_trace: whether each stage of each thread is kept for :meth:`write_trace`.
    """

    def __init__(self, *, keeps_trace: bool = False):
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()
        self._own = threading.local()
        self._events: list[tuple[str, Any, Any]] = []
        self._trace: list[dict[str, Any]] | None = [] if keeps_trace else None

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._started

    def seconds(self) -> dict[str, float]:
        """Seconds of each of ``STAGES``, of all threads together; waits for a GPU that is still at work."""
        with self._lock:
            self._read_events(wait=True)
            return dict(self._seconds)

    def switch(self, name: str | None, device: Any = None) -> None:
        """This thread is in that stage from now on; None: in none."""
        now = time.perf_counter()
        before: tuple[str | None, float, Any] = getattr(self._own, "stage", (None, now, None))
        event = _event(device)
        self._own.stage = (name, now, event)
        if before[0] is None:
            return
        with self._lock:
            if before[2] is not None and (ended := event or _event(device or before[2][1])) is not None:
                self._events.append((before[0], before[2][0], ended[0]))
                self._read_events()
            else:
                self._seconds[before[0]] += now - before[1]
            if self._trace is not None:
                thread = threading.current_thread()
                self._trace.append(
                    {
                        "name": before[0],
                        "ph": "X",
                        "pid": int(os.environ.get("RANK", 0)),
                        "tid": thread.native_id,
                        "ts": (before[1] - self._started) * 1e6,
                        "dur": (now - before[1]) * 1e6,
                    }
                )

    def current(self) -> tuple[str | None, Any]:
        """The stage that this thread is in, and the GPU that it gives orders to, if it does."""
        name, _, event = getattr(self._own, "stage", (None, 0.0, None))
        return name, event and event[1]

    def trace(self) -> str:
        """The trace in Chrome's Trace Event Format, which Perfetto and chrome://tracing open.

        Of a GPU's work it shows the time in which the processor gave the orders.
        """
        with self._lock:
            return json.dumps({"displayTimeUnit": "ms", "traceEvents": self._trace or []})

    def _read_events(self, *, wait: bool = False) -> None:
        left = []
        if wait or len(self._events) >= _EVENTS_AT_ONCE:
            for stage_name, start, end in self._events:
                if wait:
                    end.synchronize()
                if end.query():
                    self._seconds[stage_name] += start.elapsed_time(end) / 1000
                else:
                    left.append((stage_name, start, end))
            self._events = left


@contextmanager
def timed_run(watch: Stopwatch | None = None, *, keeps_trace: bool = False) -> Iterator[Stopwatch]:
    """A stopwatch for the run in the body; of nested runs each has its own.

    Args:
        watch: goes on with that one.
        keeps_trace: of a new one.
    """
    global _running
    before, _running = _running, watch or Stopwatch(keeps_trace=keeps_trace)
    try:
        yield _running
    finally:
        _running = before


@contextmanager
def stage(name: str | None, device: Any = None) -> Iterator[None]:
    """The body is that stage of the run that is timed, if there is one; None: time that is of no stage.

    Args:
        name: one of ``STAGES``.
        device: a ``torch.device``, where the body gives orders to a GPU.
    """
    watch = _running
    if watch is None:
        yield
        return
    outer, outer_device = watch.current()
    watch.switch(name, device)
    try:
        yield
    finally:
        watch.switch(outer, outer_device)


def _event(device: Any) -> tuple[Any, Any] | None:
    """A GPU's event that is recorded now, and the device; None on a CPU."""
    if device is None or device.type != "cuda":
        return None
    import torch

    with torch.cuda.device(device):
        event = torch.cuda.Event(enable_timing=True)
        event.record()
    return event, device

"""Stages run side by side, each in a process with a fixed number of threads, in an order that their inputs allow."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

from benchmarks.evidence.stages import Stage

# seconds that a stage of default size takes, until one of its kind was timed
_GUESSED_SECONDS = {
    "clip": 120.0,
    "lora": 500.0,
    "images": 600.0,
    "kept": 30.0,
    "distilled": 300.0,
    "backbone": 180.0,
    "measures": 90.0,
    "tuned": 500.0,
    "judged": 60.0,
}
_POLL_SECONDS = 0.2
_STOP_SECONDS = 10.0


@dataclass
class _Lane:
    stage: Stage
    process: subprocess.Popen
    log: TextIO
    started: float


@dataclass
class Lanes:
    """Runs stages until each is done, or cannot be done because one before it failed.

    Args:
        num_lanes: stages at the same time.
        num_threads: of each.
    """

    num_lanes: int
    num_threads: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failed: list[Stage] = field(default_factory=list)

    def run(self, stages: Sequence[Stage]) -> list[Stage]:
        """Run ``stages``, each after its inputs, and return those that failed; an interrupt stops the processes.

        A stage that is done is not run again. Those that need a failed one are left, the others go on.
        """
        by_key = {stage.key: stage for stage in stages}
        waiting = [stage for stage in by_key.values() if not stage.is_done]
        lanes: list[_Lane] = []
        self._started, self._num_before = time.monotonic(), len(by_key) - len(waiting)
        self._num_all = len(by_key)
        self._say(f"{self._num_before} of {self._num_all} stages are done already", waiting, lanes)
        try:
            while waiting or lanes:
                for stage in [one for one in waiting if all(before.is_done for before in one.inputs.values())]:
                    if len(lanes) < self.num_lanes:
                        waiting.remove(stage)
                        lanes.append(self._start(stage))
                        self._say(f"started {stage.kind} {stage.name}", waiting, lanes)
                if not lanes:
                    break
                time.sleep(_POLL_SECONDS)
                for lane in [one for one in lanes if one.process.poll() is not None]:
                    lanes.remove(lane)
                    self._finish(lane, waiting, lanes)
        finally:
            _stop(lanes)
        return self.failed

    def _start(self, stage: Stage) -> _Lane:
        stage.prepare()
        log = open(stage.folder / "log.txt", "a", encoding="utf-8")  # noqa: SIM115 - closed with the lane
        threads = {name: str(self.num_threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        environment = os.environ | threads | {"HF_DATASETS_CACHE": str(stage.folder / "cache")}
        # in a session of its own: an interrupt at the keyboard does not reach it, and _stop ends it once the last
        # stage was started
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.evidence.stage_work", str(stage.folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        return _Lane(stage, process, log, time.monotonic())

    def _finish(self, lane: _Lane, waiting: list[Stage], lanes: list[_Lane]) -> None:
        lane.log.close()
        stage, seconds = lane.stage, time.monotonic() - lane.started
        if lane.process.returncode or not stage.is_done:
            self.failed.append(stage)
            code = lane.process.returncode
            text = f"{stage.kind} {stage.name} failed (exit code {code}), see {stage.folder / 'log.txt'}"
        else:
            self.seconds.setdefault(stage.kind, []).append(seconds)
            text = f"finished {stage.kind} {stage.name} in {seconds:.0f} s"
        self._say(text, waiting, lanes)

    def _say(self, text: str, waiting: list[Stage], lanes: list[_Lane]) -> None:
        elapsed = time.monotonic() - self._started
        num_done = self._num_all - len(waiting) - len(lanes) - len(self.failed)
        rate = (num_done - self._num_before) / elapsed * 3600 if elapsed > 1 else 0.0
        left = sum(self._expected(stage) for stage in waiting)
        left += sum(max(0.0, self._expected(lane.stage) - (time.monotonic() - lane.started)) for lane in lanes)
        print(
            f"evidence: {num_done}/{self._num_all} stages, {elapsed / 60:.1f} min, {rate:.0f} stages/h, about "
            f"{left / self.num_lanes / 60:.0f} min left; {text}",
            flush=True,
        )

    def _expected(self, stage: Stage) -> float:
        timed = self.seconds.get(stage.kind)
        return sum(timed) / len(timed) if timed else _GUESSED_SECONDS[stage.kind]


def _stop(lanes: Sequence[_Lane]) -> None:
    """End what still runs: asked first, so that nothing is left half printed, then made to."""
    for lane in lanes:
        _signal(lane.process, signal.SIGTERM)
    for lane in lanes:
        try:
            lane.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _signal(lane.process, signal.SIGKILL)
            lane.process.wait()
        lane.log.close()


def _signal(process: subprocess.Popen, number: int) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)

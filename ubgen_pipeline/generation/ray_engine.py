"""Generation on a Ray cluster: idle workers take what is left, and a lost worker's shard is drawn again.

This is the driver, which draws nothing itself and needs no GPU. What runs on the cluster is in ``ray_workers.py``.
"""

import dataclasses
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from ..commands.console import FIRST_NOTE, NOTE_EVERY, Progress, say
from .ray_workers import ShardWorker, WorkerShare, affordable_workers, library_versions
from .settings import RAY_SETTINGS, GenerateSettings
from .throughput import Throughput

if TYPE_CHECKING:
    from .dataset_run import DatasetRun

# a shard whose workers die this often is taken for the cause, as is their start; before that, the cluster is
_MOST_LOSSES = 3
# on CPUs, where a worker for each of them may not fit the memory
_WORKERS_ON_CPUS = 2
# seconds between questions to the workers how far they are; each has one, so more of them are asked less often
_ASK_EVERY = 1.0
_QUESTIONS_PER_SECOND = 100
# bytes of main memory for Ray's own store on a cluster that is started here; what goes through it is small
_OBJECT_STORE = 100 * 2**20


def write_with_ray(run: "DatasetRun") -> None:
    """Write the missing shards of ``run`` on a cluster.

    That is the one of RAY_ADDRESS, which Ray sets for its jobs, or one that runs on this machine; else one is started
    here for this run.

    Raises:
        ValueError: Ray is not installed, there is no cluster at the address, it has not what was asked for, or a
            worker refused the settings.
        OSError: the cluster went away, or a shard's workers died again and again; what was committed stays.
    """
    missing = run.missing()
    if not missing:
        return
    # Ray reports usage unless told not to; this project sends none
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # seconds that a cluster on this machine may take to start, which are 30 otherwise: few where it is busy
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.exceptions import RayActorError, RayError, RayTaskError  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("engine is 'ray', which is not installed; pip install 'ubgen[ray]'.") from error
    with _connected(ray, run.settings):
        try:
            _Crew(ray, run, missing).write()
        except RayTaskError as error:
            # the worker's own error, which says what to put right
            cause = error.cause if isinstance(error.cause, Exception) else error
            raise cause from error
        except RayActorError as error:
            raise OSError(
                f"workers of the Ray cluster die again and again ({_first_line(error)}); run again to resume."
            ) from error
        except (RayError, ConnectionError) as error:
            raise OSError(f"the Ray cluster went away ({_first_line(error)}); run again to resume.") from error


@contextmanager
def _connected(ray: Any, settings: GenerateSettings) -> Iterator[None]:
    """Ray, connected to a cluster while the body runs; where the caller has connected it, it stays so."""
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": True, "configure_logging": False}
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(**options)
        else:
            _join_or_start(ray, settings, options)
    except Exception as error:
        # of a node that does not start in time Ray tells by a plain Exception
        raise ValueError(
            f"RAY_ADDRESS is {address!r}, where no cluster answers ({_first_line(error)})."
            if address
            else f"no Ray cluster can be started on this machine ({_first_line(error)})."
        ) from error
    # what Ray prints of its processes, at its end too, is none of the command's results
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            ray.shutdown()


def _join_or_start(ray: Any, settings: GenerateSettings, options: dict[str, Any]) -> None:
    cpus = os.cpu_count() or 1
    if settings.worker_cpus is None:
        # one for each worker, even where the machine has fewer
        cpus = max(cpus, settings.num_workers or _WORKERS_ON_CPUS)
    local = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        ray.init(**options, **local)
    except ValueError:
        # these are refused where `ray start` has started a cluster on this machine
        ray.init(**options)


def _share_of_worker(device: str | None, settings: GenerateSettings, nodes: list[dict[str, float]]) -> WorkerShare:
    """What each worker takes of those nodes: of a GPU where there are any, unless a device was asked for."""
    has_gpus = any(node.get("GPU", 0) for node in nodes)
    if device is None and settings.worker_gpus is not None and not has_gpus:
        raise ValueError(
            f"worker_gpus is {settings.worker_gpus:g}, and the Ray cluster has no GPUs; leave it out to draw on CPUs."
        )
    on_gpus = device.startswith("cuda") if device is not None else has_gpus
    return WorkerShare((settings.worker_gpus or 1.0) if on_gpus else 0.0, settings.worker_cpus or 1)


@dataclasses.dataclass(eq=False)
class _Member:
    """A worker as the driver sees it.

    Attributes:
        actor: Ray's handle.
        begun: when it was asked for, by ``time.monotonic``.
        node: name of its machine, once its process runs and its libraries are found to be the driver's.
        is_ready: whether it has loaded the model.
        shard: number of the one at work.
        num_drawn: images of that shard.
        question: the call under way that asks for its news.
        figures: of the shards that it has finished.
        start_seconds: from being asked for until it was checked.
    """

    actor: Any
    begun: float = dataclasses.field(default_factory=time.monotonic)
    node: str | None = None
    is_ready: bool = False
    shard: int | None = None
    num_drawn: int = 0
    question: Any = None
    figures: Throughput | None = None
    start_seconds: float = 0.0


class _Crew:
    """The workers of one run. Each has one call at most under way; a worker that dies is replaced."""

    def __init__(self, ray: Any, run: "DatasetRun", missing: list[int]):
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        device = run.wanted_device
        share = _share_of_worker(device, run.settings, nodes)
        asked = run.settings.num_workers or (None if share.gpus else _WORKERS_ON_CPUS)
        self.ray, self.run = ray, run
        self.missing, self.num_missing = deque(missing), len(missing)
        self.num_workers = min(affordable_workers(nodes, asked, share), len(missing))
        fields = dataclasses.asdict(run.settings) | {"output_dir": run.folder_to_share, "engine": "local"}
        # Ray shows each worker its own GPU only, which then has number 0
        fields |= {**dict.fromkeys(RAY_SETTINGS), "device": "cuda" if share.gpus else device or "cpu"}
        # the second thread says how far the first one is; on many nodes each has more memory for itself
        options = {"max_concurrency": 2, "scheduling_strategy": "SPREAD"}
        self.remote = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, **options)(ShardWorker)
        self.arguments = (fields, library_versions(), self.num_workers, share.gpus or 1.0, os.getcwd())
        self.share = share
        self.begun = run.begun
        self.members: list[_Member] = []
        self.calls: dict[Any, tuple[_Member, str]] = {}
        self.losses: Counter[int] = Counter()
        self.num_lost_starts = 0
        self.figures: list[Throughput] = []
        self.marks: Counter[str] = Counter()
        self.num_drawn = 0
        self.progress: Progress | None = None
        self.asked_at = time.monotonic()
        self.said: set[str] = set()
        exceptions = ray.exceptions
        self.lost = (exceptions.RayActorError, exceptions.OutOfMemoryError, exceptions.NodeDiedError)

    def write(self) -> None:
        """Write all that is missing, and hand the figures to the run."""
        say(f"{self.num_workers} workers on the Ray cluster, each with {self.share}")
        loop_seconds = 0.0
        while self.missing:
            loop_seconds += self._write_missing()
            self._leave_behind()
            for member in list(self.members):
                self._call(member, "flush")
            self._wait_for_calls()
            # what a lost worker had finished and not pushed to the Hub is drawn again
            absent = self.run.still_missing()
            if absent:
                say(f"{len(absent)} shards were lost with their worker before they were pushed; they are drawn again")
            self.missing.extend(absent)
        for member in list(self.members):
            self._call(member, "close")
        self._wait_for_calls()
        self.run.figures.take(self.figures, self.marks, self.num_missing, loop_seconds)

    def _write_missing(self) -> float:
        """Until no shard is missing or at work; gives the seconds since a worker was ready."""
        started: float | None = None
        noted_at, note_after = time.monotonic(), FIRST_NOTE
        while self.missing or self._at_work():
            self._find_work()
            self._take_answers()
            now = time.monotonic()
            if started is None and any(member.is_ready for member in self.members):
                started = now
            if self._at_work():
                noted_at, note_after = now, FIRST_NOTE
            elif now - noted_at >= note_after:
                say(f"waiting for {self._what_is_waited_for()}")
                noted_at, note_after = now, NOTE_EVERY
        return 0.0 if started is None else time.monotonic() - started

    def _find_work(self) -> None:
        """Start workers for those that were lost, and give each idle one what it is to do next."""
        while len(self.members) < min(self.num_workers, len(self.missing) + len(self._at_work())):
            member = _Member(self.remote.remote(*self.arguments))
            self.members.append(member)
            self._call(member, "check")
        busy = {id(member) for member, _ in self.calls.values()}
        is_settled = self.begun is not None or any(call == "prepare" for _, call in self.calls.values())
        for member in self.members:
            if id(member) in busy:
                continue
            if not member.is_ready:
                # the first one prepares alone: the others take over what it chooses for a new dataset
                if self.begun is not None or not is_settled:
                    self._call(member, "prepare", self.begun)
                    is_settled = True
            elif self.missing:
                member.shard, member.num_drawn = self.missing.popleft(), 0
                self._call(member, "write", member.shard)

    def _call(self, member: _Member, name: str, *arguments: Any) -> None:
        self.calls[getattr(member.actor, name).remote(*arguments)] = (member, name)

    def _wait_for_calls(self) -> None:
        while self.calls:
            self._take_answers()

    def _take_answers(self) -> None:
        """Wait until a call is done, for a moment at most, and ask for news where that is due."""
        wait = max(_ASK_EVERY, len(self.members) / _QUESTIONS_PER_SECOND)
        done, _ = self.ray.wait(list(self.calls), num_returns=1, timeout=wait)
        for call in done:
            member, name = self.calls.pop(call)
            try:
                answer = self.ray.get(call)
            except self.lost as error:
                self._lose(member, name, error)
            else:
                self._take(member, name, answer)
        if time.monotonic() - self.asked_at >= wait:
            self.asked_at = time.monotonic()
            self._take_news()
            for member in self.members:
                if member.question is None and member.node is not None:
                    member.question = member.actor.news.remote()
        self._show()

    def _take(self, member: _Member, name: str, answer: Any) -> None:
        if name == "check":
            member.node, member.start_seconds = answer, time.monotonic() - member.begun
        elif name == "prepare":
            member.is_ready, self.num_lost_starts = True, 0
            if self.begun is None:
                self.begun = answer
                self.run.take_manifest(answer)
            if self.progress is None:
                self.progress = Progress(self._num_images(self.missing), "images")
        elif name == "write":
            member.figures = answer
            self._finish(member)
        elif name == "close":
            figures, marks = answer
            self._keep(member, figures)
            self.marks += marks

    def _finish(self, member: _Member) -> None:
        """The shard that this worker had at work is there."""
        assert member.shard is not None
        self.num_drawn += self._num_images([member.shard])
        member.shard, member.num_drawn = None, 0

    def _lose(self, member: _Member, name: str, error: Exception) -> None:
        """Go on without a worker that died."""
        # it may be alive and only out of reach, and would keep its place
        self.ray.kill(member.actor)
        self.members.remove(member)
        if member.figures is not None:
            # another one takes its place on the machines, so it adds nothing to what they can compute
            self._keep(member, dataclasses.replace(member.figures, limit=0.0))
        if member.shard is None:
            if name in ("check", "prepare"):
                self.num_lost_starts += 1
                if self.num_lost_starts >= _MOST_LOSSES * self.num_workers:
                    raise error
                say(f"a worker was lost while it started ({_first_line(error)}); another takes its place")
            return
        number, shards = member.shard, self.run.shards
        self.losses[number] += 1
        if self.losses[number] >= _MOST_LOSSES:
            raise error
        say(f"the worker of shard {number} was lost; another takes over")
        # it may have died after it had written the shard
        if shards.is_complete(shards.shards[number]):
            self._finish(member)
        else:
            self.missing.append(number)

    def _keep(self, member: _Member, figures: Throughput) -> None:
        stages = {**figures.stages, "loading": figures.stages.get("loading", 0.0) + member.start_seconds}
        self.figures.append(dataclasses.replace(figures, stages=stages))

    def _leave_behind(self) -> None:
        """Let those go that were not ready while there was something to draw."""
        for member in [member for member in self.members if not member.is_ready]:
            self.ray.kill(member.actor)
            self.members.remove(member)
        self.calls = {call: entry for call, entry in self.calls.items() if entry[0] in self.members}

    def _take_news(self) -> None:
        asked = {member.question: member for member in self.members if member.question is not None}
        done = self.ray.wait(list(asked), num_returns=len(asked), timeout=0)[0] if asked else []
        for question in done:
            member = asked[question]
            member.question = None
            try:
                news = self.ray.get(question)
            except self.lost:
                # its other call tells, too
                continue
            if news.shard == member.shard:
                member.num_drawn = news.num_drawn
            for line in news.said:
                # workers have much the same to say
                if line not in self.said:
                    self.said.add(line)
                    say(f"worker on {member.node}: {line}")

    def _show(self) -> None:
        done = self.num_drawn + sum(member.num_drawn for member in self._at_work())
        if self.progress is not None and done != self.progress.done:
            num_ready = sum(member.is_ready for member in self.members)
            self.progress.advance(done - self.progress.done, f"{num_ready} of {self.num_workers} workers")

    def _at_work(self) -> list[_Member]:
        return [member for member in self.members if member.shard is not None]

    def _num_images(self, numbers: Any) -> int:
        shards = self.run.shards.shards
        return sum(shards[number].stop - shards[number].start for number in numbers)

    def _what_is_waited_for(self) -> str:
        num_placed = sum(member.node is not None for member in self.members)
        if num_placed:
            return f"{num_placed} workers of the Ray cluster, which load the model"
        return (
            "the Ray cluster to start a worker; what else runs there, or a node that went away, may leave no room for"
            f" one that takes {self.share}"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

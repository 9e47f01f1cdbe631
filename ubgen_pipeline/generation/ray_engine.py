"""Generation on a Ray cluster: idle workers take what is left, and a lost worker's shard is drawn again.

Workers write to a folder or an address that all of them see, or push to the Hub, each from a folder of its own. A
shard's content does not depend on who drew it, so the dataset is that of one process, byte for byte, where the
machines are alike; a worker with other versions of the libraries than the driver's is refused.
"""

import dataclasses
import os
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ..commands.console import say
from ..commands.stopwatch import Stopwatch, timed_run
from .throughput import Throughput

if TYPE_CHECKING:
    from .dataset_run import DatasetRun

# a shard whose workers die this often is taken for the cause; before that, the cluster is
_MOST_LOSSES = 3
# what pixels and files depend on
_LIBRARIES = ("ubgen", "torch", "diffusers", "transformers", "pillow", "pyarrow", "datasets", "numpy", "scipy", "peft")


def library_versions() -> dict[str, str | None]:
    """Versions of the libraries that a dataset's bytes depend on; None for one that is not installed."""
    return {name: _version(name) for name in _LIBRARIES}


class ShardWorker:
    """What runs on the cluster: one process with one loaded model. Its methods raise what :class:`DatasetRun` raises.

    Args:
        settings: fields of ``GenerateSettings``; without ``output_dir`` the worker makes a folder of its own.
        versions: of the driver's libraries.
        num_workers: that share the Hub's commits.
        begun: the manifest's settings, where another worker has settled them.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        versions: Mapping[str, str | None],
        num_workers: int = 1,
        begun: Mapping[str, Any] | None = None,
    ):
        # no more here: an error while a worker starts would look as if the worker were lost
        self._settings, self._versions, self._num_workers, self._begun = settings, versions, num_workers, begun
        self._own_folder: str | None = None
        self._watch = Stopwatch()

    def prepare(self) -> dict[str, Any]:
        """Load the model and, in a new folder, write the manifest, whose settings are given back."""
        with timed_run(self._watch):
            self._run.prepare()
        return self._run.shards.manifest

    def write(self, number: int) -> int:
        """Draw and write that shard, and give its number back."""
        with timed_run(self._watch):
            self._run.write([number])
        return number

    def flush(self) -> Throughput:
        """Push what is finished, where the dataset is on the Hub; gives the figures of what the worker has drawn."""
        with timed_run(self._watch):
            self._run.flush()
        if self._own_folder is not None:
            shutil.rmtree(self._own_folder, ignore_errors=True)
        return self._run.throughput(self._watch)

    @cached_property
    def _run(self) -> "DatasetRun":
        for name, there in self._versions.items():
            if (here := _version(name)) != there:
                raise ValueError(
                    f"a worker of the Ray cluster has {name} {here or 'not installed'} and the driver"
                    f" {there or 'not installed'}, so its images may differ; install the same versions everywhere."
                )
        from .dataset_run import DatasetRun
        from .settings import GenerateSettings

        settings = dict(self._settings)
        if settings["output_dir"] is None:
            settings["output_dir"] = self._own_folder = tempfile.mkdtemp(prefix="ubgen-")
        own = GenerateSettings(**settings)
        run = DatasetRun(own, own.samples(), begun=self._begun, num_committers=self._num_workers)
        # opens the dataset, too, where it is on the Hub
        run.missing()
        return run


def write_with_ray(run: "DatasetRun") -> None:
    """Write the missing shards of ``run`` on a cluster: that of RAY_ADDRESS, or one started on this machine.

    Raises:
        ValueError: Ray is not installed, there is no cluster at the address, or a worker refused the settings.
        OSError: the cluster went away, or a shard's workers died again and again; what was committed stays.
    """
    missing = deque(run.missing())
    if not missing:
        return
    # Ray reports usage unless told not to; this project sends none
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.exceptions import RayActorError, RayError, RayTaskError  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("engine is 'ray', which is not installed; pip install 'ubgen[ray]'.") from error
    on_gpu = run.device.startswith("cuda")
    num_workers = run.settings.num_workers or (None if on_gpu else 2)
    try:
        # a cluster started here counts one CPU for each worker, even where the machine has fewer
        local: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ or on_gpu else {"num_cpus": num_workers}
        ray.init(include_dashboard=False, log_to_driver=True, configure_logging=False, **local)
    except (ConnectionError, ValueError, RayError) as error:
        raise ValueError(f"RAY_ADDRESS is {os.environ.get('RAY_ADDRESS')!r}, where no cluster answers.") from error
    try:
        num_workers = min(_affordable_workers(ray, num_workers, "GPU" if on_gpu else "CPU"), len(missing))
        remote = ray.remote(num_cpus=1, num_gpus=1 if on_gpu else 0)(ShardWorker)
        fields = dataclasses.asdict(run.settings) | {"output_dir": run.folder_to_share, "engine": "local"}
        # Ray shows each worker its own GPU only, which then has number 0
        fields |= {"num_workers": None, "device": "cuda" if on_gpu else run.device}
        run.count_written(len(missing))
        while missing:
            _hand_out(ray, remote, fields, run, missing, min(num_workers, len(missing)))
            # what a lost worker had finished and not pushed to the Hub is drawn again
            missing.extend(run.still_missing())
    except RayTaskError as error:
        # the worker's own error, which says what to put right
        cause = error.cause if isinstance(error.cause, Exception) else error
        raise cause from None
    except RayActorError as error:
        raise OSError(
            f"workers of the Ray cluster cannot start ({_first_line(error)}); run again to resume."
        ) from error
    except (RayError, ConnectionError) as error:
        raise OSError(f"the Ray cluster went away ({_first_line(error)}); run again to resume.") from error
    finally:
        ray.shutdown()


def _affordable_workers(ray: Any, asked: int | None, kind: str) -> int:
    """How many workers the cluster has GPUs or CPUs for; ``ValueError`` where that is less than was asked for."""
    there = int(ray.cluster_resources().get(kind, 0))
    if there < (asked or 1):
        raise ValueError(
            f"num_workers is {asked or 'not given'}, and the Ray cluster has {there} {kind}s, of which each worker"
            " takes one; give fewer workers, or start Ray on more machines first."
        )
    return asked or there


def _hand_out(ray: Any, remote: Any, fields: dict[str, Any], run: "DatasetRun", missing: deque[int], num_workers: int):
    """Keep every worker busy until no shard is left; a worker that dies is replaced."""
    from ray.exceptions import RayActorError  # pyright: ignore[reportMissingImports]

    losses: Counter[int] = Counter()
    versions = library_versions()
    first = remote.remote(fields, versions, num_workers)
    # the first worker prepares alone: the others take over what it chooses for a new dataset
    begun = ray.get(first.prepare.remote())
    started = time.monotonic()
    workers = [first, *(remote.remote(fields, versions, num_workers, begun) for _ in range(num_workers - 1))]
    busy = {worker.write.remote(number): (worker, number) for worker, number in zip(workers, _taken(missing, workers))}
    while busy:
        done, _ = ray.wait(list(busy), num_returns=1)
        worker, number = busy.pop(done[0])
        try:
            ray.get(done[0])
        except RayActorError:
            losses[number] += 1
            if losses[number] >= _MOST_LOSSES:
                raise
            say(f"the worker of shard {number} was lost; another takes over")
            workers.remove(worker)
            worker = remote.remote(fields, versions, num_workers, begun)
            workers.append(worker)
            # the worker may have died after it had written the shard
            if not run.shards.is_complete(run.shards.shards[number]):
                missing.append(number)
        if missing:
            number = missing.popleft()
            busy[worker.write.remote(number)] = (worker, number)
    figures: list[Throughput] = []
    for flushed in [worker.flush.remote() for worker in workers]:
        try:
            figures.append(ray.get(flushed))
        except RayActorError:
            say("a worker was lost before its shards were on the Hub; they are drawn again")
    run.take_figures(figures, time.monotonic() - started)


def _taken(missing: deque[int], workers: list[Any]) -> list[int]:
    return [missing.popleft() for _ in workers[: len(missing)]]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

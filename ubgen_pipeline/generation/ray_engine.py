"""Generation on a Ray cluster: idle workers take what is left, and a lost worker's shard is drawn again.

The folder must be one that all workers see. A shard's content does not depend on who drew it, so the dataset is that
of one process, byte for byte, where the machines are alike.
"""

import dataclasses
import os
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from ..commands.console import say

if TYPE_CHECKING:
    from .dataset_run import DatasetRun

# a shard whose workers die this often is taken for the cause; before that, the cluster is
_MOST_LOSSES = 3


class ShardWorker:
    """What runs on the cluster: one process with one loaded model.

    Args:
        settings: fields of ``GenerateSettings``.
    """

    def __init__(self, settings: dict[str, Any]):
        from .dataset_run import DatasetRun
        from .settings import GenerateSettings

        own = GenerateSettings(**settings)
        self._run = DatasetRun(own, own.samples())

    def prepare(self) -> None:
        """Load the model and, in a new folder, write the manifest."""
        self._run.prepare()

    def write(self, number: int) -> int:
        """Draw and write that shard, and give its number back."""
        self._run.write([number])
        return number


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
        num_workers = min(num_workers or max(1, int(ray.cluster_resources().get("GPU", 0))), len(missing))
        remote = ray.remote(num_cpus=1, num_gpus=1 if on_gpu else 0)(ShardWorker)
        fields = dataclasses.asdict(run.settings)
        # Ray shows each worker its own GPU only, which then has number 0
        fields |= {"output_dir": str(run.shards.folder.resolve()), "device": "cuda" if on_gpu else run.device}
        _hand_out(ray, remote, fields, run, missing, num_workers)
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


def _hand_out(ray: Any, remote: Any, fields: dict[str, Any], run: "DatasetRun", missing: deque[int], num_workers: int):
    """Keep every worker busy until no shard is left; a worker that dies is replaced."""
    from ray.exceptions import RayActorError  # pyright: ignore[reportMissingImports]

    losses: Counter[int] = Counter()
    first = remote.remote(fields)
    # the first worker prepares alone: the others take over what it chooses for a new dataset
    ray.get(first.prepare.remote())
    workers = [first, *(remote.remote(fields) for _ in range(num_workers - 1))]
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
            worker = remote.remote(fields)
            # the worker may have died after it had written the shard
            if not run.shards.is_complete(run.shards.shards[number]):
                missing.append(number)
        if missing:
            number = missing.popleft()
            busy[worker.write.remote(number)] = (worker, number)


def _taken(missing: deque[int], workers: list[Any]) -> list[int]:
    return [missing.popleft() for _ in workers[: len(missing)]]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

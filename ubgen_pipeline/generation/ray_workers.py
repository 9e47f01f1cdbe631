"""What runs on a Ray cluster: a process with one loaded model, and what of a node it takes.

Workers write to a folder or an address that all of them see, or push to the Hub, each from a folder of its own. A
shard's content does not depend on who drew it, so the dataset is that of one process, byte for byte, where the
machines are alike; a worker with other versions of the libraries than the driver's is refused.
"""

import io
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ..commands.stopwatch import Stopwatch, timed_run
from ..files.process_folder import process_folder
from .throughput import Throughput

if TYPE_CHECKING:
    from .dataset_run import DatasetRun

# what pixels and files depend on
_LIBRARIES = ("ubgen", "torch", "diffusers", "transformers", "pillow", "pyarrow", "datasets", "numpy", "scipy", "peft")
# of its share of a GPU's memory, what a process may fill with tensors; the rest is for CUDA itself, in each process
_FOR_TENSORS = 0.95


def library_versions() -> dict[str, str | None]:
    """Versions of the libraries that a dataset's bytes depend on; None for one that is not installed."""
    return {name: _version(name) for name in _LIBRARIES}


@dataclass(frozen=True)
class WorkerShare:
    """What a worker takes of its node.

    Attributes:
        gpus: 0 on CPUs, else above 0 up to 1; workers with less than 1 share a GPU.
        cpus: cores, from 1.
    """

    gpus: float
    cpus: int

    def num_on(self, node: Mapping[str, float]) -> int:
        """How many workers fit a node with those resources, by Ray's names: ``CPU`` and ``GPU``."""
        num = int(node.get("CPU", 0) // self.cpus)
        if self.gpus:
            # a worker has its share of one GPU, and not parts of two
            num = min(num, int(node.get("GPU", 0)) * int(1 / self.gpus + 1e-9))
        return num

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU{'s' * (self.cpus > 1)}"
        return f"{self.gpus:g} GPU and {cpus}" if self.gpus else cpus


def affordable_workers(nodes: Iterable[Mapping[str, float]], asked: int | None, share: WorkerShare) -> int:
    """How many workers to start on nodes with those resources; as many as there is room for where none was asked for.

    Raises:
        ValueError: there is not room for as many as were asked for, or for none.
    """
    nodes = list(nodes)
    there = sum(share.num_on(node) for node in nodes)
    if there < (asked or 1):
        totals = [f"{sum(node.get(kind, 0) for node in nodes):g} {kind}s" for kind in ("GPU", "CPU")]
        raise ValueError(
            f"num_workers is {asked or 'not given'}, and the Ray cluster has {' and '.join(totals)} on {len(nodes)}"
            f" nodes, where {there or 'no'} workers fit that take {share} each; give fewer workers, let each take"
            " less (worker_gpus, worker_cpus), or start Ray on more machines first."
        )
    return asked or there


@dataclass(frozen=True)
class WorkerNews:
    """How far a worker is.

    Attributes:
        shard: number of the one at work, or done last; -1 before the first.
        num_drawn: images of that shard.
        said: lines that it has said since it was asked last, such as what it waits for.
    """

    shard: int
    num_drawn: int
    said: list[str]


class ShardWorker:
    """One process of the cluster. Its methods raise what :class:`DatasetRun` raises.

    All but ``news`` are called one after the other; ``news`` may be called at any time, from another thread.

    Args:
        settings: fields of ``GenerateSettings``; without ``output_dir`` the worker makes a folder of its own.
        versions: of the driver's libraries.
        num_workers: that share the Hub's commits.
        gpu_share: part of a GPU that is this worker's.
        folder: that the driver is in; names of files are relative to it where it is on this machine, too.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        versions: Mapping[str, str | None],
        num_workers: int = 1,
        gpu_share: float = 1.0,
        folder: str | None = None,
    ):
        # no more here: an error while a worker starts would look as if the worker were lost
        self._settings, self._versions, self._num_workers = settings, versions, num_workers
        self._gpu_share, self._folder = gpu_share, folder
        self._begun: Mapping[str, Any] | None = None
        self._own_folder = ExitStack()
        self._watch = Stopwatch()
        self._shard, self._num_drawn = -1, 0
        self._said = _Overheard()

    def check(self) -> str:
        """Import the libraries, and give this machine's name.

        Raises:
            ValueError: a library's version is not the driver's, or the GPU cannot be used.
        """
        node = platform.node()
        for name, there in self._versions.items():
            if (here := _version(name)) != there:
                raise ValueError(
                    f"a worker of the Ray cluster, on {node}, has {name} {here or 'not installed'} and the driver"
                    f" {there or 'not installed'}, so its images may differ; install the same versions everywhere."
                )
        import torch

        if self._settings["device"] == "cuda":
            if not torch.cuda.is_available():
                raise ValueError(
                    f"a worker of the Ray cluster, on {node}, has a GPU that PyTorch {torch.__version__} cannot use;"
                    " install a build of PyTorch for it, or give device cpu."
                )
            if self._gpu_share < 1:
                # so that a batch size that fits is one that fits beside the other workers
                torch.cuda.set_per_process_memory_fraction(self._gpu_share * _FOR_TENSORS)
        if self._folder is not None and os.path.isdir(self._folder):
            os.chdir(self._folder)
        from . import dataset_run  # noqa: F401

        return node

    def prepare(self, begun: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Load the model and, in a new folder, write the manifest, whose settings are given back.

        Args:
            begun: these settings, where another worker has settled them.
        """
        self._begun = begun
        with self._observed():
            self._run.prepare()
        return self._run.shards.manifest

    def write(self, number: int) -> Throughput:
        """Draw and write that shard; gives the figures of all that was drawn so far."""
        self._shard, self._num_drawn = number, 0
        with self._observed():
            self._run.write([number], self._count)
        return self._run.figures.throughput(self._watch)

    def news(self) -> WorkerNews:
        """How far it is, and what it has said."""
        return WorkerNews(self._shard, self._num_drawn, self._said.take())

    def flush(self) -> None:
        """Push what is finished, where the dataset is on the Hub."""
        with self._observed():
            self._run.flush()

    def close(self) -> tuple[Throughput, Counter[str]]:
        """End with figures of all that was drawn, and how many images were marked, by column; see ``marked_rows``."""
        self._own_folder.close()
        return self._run.throughput(self._watch), self._run.figures.marks

    @contextmanager
    def _observed(self) -> Iterator[None]:
        self._said.behind_it = sys.stderr
        with timed_run(self._watch), redirect_stderr(self._said):
            yield

    def _count(self, count: int) -> None:
        self._num_drawn += count

    @cached_property
    def _run(self) -> "DatasetRun":
        from .dataset_run import DatasetRun
        from .settings import GenerateSettings

        settings = dict(self._settings)
        if settings["output_dir"] is None:
            settings["output_dir"] = str(self._own_folder.enter_context(process_folder()))
        own = GenerateSettings(**settings)
        run = DatasetRun(own, own.samples(), begun=self._begun, num_committers=self._num_workers)
        # opens the dataset, too, where it is on the Hub
        run.missing()
        return run


class _Overheard(io.TextIOBase):
    """Stands in for stderr, and keeps the lines of ours that pass, since Ray logs all lines alike."""

    _PREFIX = "ubgen: "

    def __init__(self):
        self.behind_it: Any = sys.stderr
        self._line = ""
        self._lines: list[str] = []

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        self._lines += [line.removeprefix(self._PREFIX) for line in lines if line.startswith(self._PREFIX)]
        return self.behind_it.write(text)

    def flush(self) -> None:
        self.behind_it.flush()

    def take(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

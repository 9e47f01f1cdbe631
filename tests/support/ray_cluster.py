"""A Ray cluster on this machine, as `ray start` makes it; and whose connection to a server of the tests one is."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_START_SECONDS = 300
_MEMORY = ["--object-store-memory", "100000000"]
# of the programs of this module: waits until a cluster has so many nodes
_WAIT = """
import sys, time, ray
ray.init(configure_logging=False, log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) != int(sys.argv[1]):
    time.sleep(0.2)
"""


class RayCluster:
    """A head, and nodes that are added; all end with the body.

    Args:
        num_cpus: of the head, so that workers run there, too.
        has_jobs: whether it has the server for jobs, which needs ``ray[default]``.
    """

    def __init__(self, *, num_cpus: int = 0, has_jobs: bool = False):
        # a socket's path may have some hundred characters
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))
        port, jobs_port = _free_port(), _free_port()
        self.address, self.jobs_address = f"127.0.0.1:{port}", f"http://127.0.0.1:{jobs_port}"
        # nobody else on this machine may connect
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment = {**os.environ, **secret, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": self.address}
        # a machine that has other things to do takes longer than Ray waits, and workers come last
        self.environment |= {"RAY_raylet_start_wait_time_s": str(_START_SECONDS), "RAY_worker_niceness": "0"}
        # process groups
        self._nodes: list[int] = []
        self._head = ["--head", "--port", str(port), "--num-cpus", str(num_cpus)]
        # where RAY_TMPDIR leads to
        self._head += ["--temp-dir", str(self.folder / "ray")]
        self._head += ["--include-dashboard", str(has_jobs).lower(), "--dashboard-port", str(jobs_port)]

    def __enter__(self) -> "RayCluster":
        try:
            self.add_node(*self._head)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for node in self._nodes:
            _end(node)
        shutil.rmtree(self.folder, ignore_errors=True)

    def add_node(self, *flags: str, **variables: str) -> None:
        """Start a node with those flags of ``ray start``; its workers have those variables."""
        # a head does not read the address of another one
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        where = [] if "--head" in flags else ["--address", self.address]
        # by default one that another node on this machine has, and no jobs are started there
        agent = ["--dashboard-agent-listen-port", str(_free_port())]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, *_MEMORY, *agent, *flags]
        log = self.folder / f"node{len(self._nodes)}.log"
        with log.open("wb") as output:
            start = subprocess.Popen(
                command, env={**environment, **variables}, stdout=output, stderr=output, start_new_session=True
            )
        self._nodes.append(start.pid)
        assert start.wait(timeout=_START_SECONDS) == 0, log.read_text()

    def remove_node(self) -> None:
        """End the node that was added last, and wait until the others know."""
        _end(self._nodes.pop())
        self.wait_for_nodes()

    def kill_node_of(self, worker: int) -> None:
        """Kill all processes of the node on which that process works, at once, as a machine is lost."""
        processes = _processes()

        def node_of(process: int) -> int | None:
            # workers are in groups of their own, below the process that started them
            while process in processes:
                process, group = processes[process]
                if group in self._nodes:
                    return group
            return None

        node = node_of(worker)
        assert node is not None, f"process {worker} is of no node"
        lost = [process for process in processes if node_of(process) == node]
        self._nodes.remove(node)
        for process in lost:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def wait_for_nodes(self) -> None:
        """Until the cluster has the nodes that were added, and no others."""
        command = [sys.executable, "-c", _WAIT, str(len(self._nodes))]
        subprocess.run(command, env=self.environment, check=True, timeout=_START_SECONDS)

    def run_job(self, folder: Path, variables: dict[str, str], command: list[str]) -> subprocess.CompletedProcess[str]:
        """`ray job submit` from that folder, which the job and its workers get, as they get those variables."""
        submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", self.jobs_address]
        submit += ["--working-dir", str(folder), "--runtime-env-json", json.dumps({"env_vars": variables})]
        deadline = time.monotonic() + _START_SECONDS
        while True:
            ended = subprocess.run(
                [*submit, "--", *command],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=540,
            )
            # the head's server for jobs answers before what starts them is there
            if "No available agent to submit job" not in ended.stdout or time.monotonic() > deadline:
                return ended


def kill_client(port: int) -> int:
    """Kill the process whose connection has that local port; gives its number."""
    number = client(port)
    os.kill(number, signal.SIGKILL)
    return number


def client(port: int) -> int:
    """The number of the process whose connection has that local port."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            entry = line.split()
            if int(entry[1].rpartition(":")[2], 16) == port and entry[9] != "0":
                inodes.add(f"socket:[{entry[9]}]")
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        # the server's end has the port on the other side
        if target in inodes:
            return int(descriptor.parts[2])
    raise AssertionError(f"no process has a connection from port {port}")


def _processes() -> dict[int, tuple[int, int]]:
    """By the number of each process on this machine, its parent and its group."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name before may hold anything
            _, parent, group = file.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        found[int(file.parent.name)] = int(parent), int(group)
    return found


def _end(group: int) -> None:
    """A node's processes, and with them its workers."""
    try:
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            time.sleep(0.1)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

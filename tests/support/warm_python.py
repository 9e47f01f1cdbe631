"""A Python that has imported the large libraries already, for tests that start many commands.

Most of a small command's time is that of its imports. Here servers import the libraries once, and fork for each
program, which then runs in a process, folder and environment of its own as always. One has imported all of them;
another stopped before Hugging Face's, for programs with other variables that those read when they are imported. None
of our own modules is imported before the fork. :func:`warm_programs` gives a folder with programs ``python`` and
``ubgen`` to start instead of those beside :data:`sys.executable`; they hand what they were called with to a server,
and pass signals, output and exit status on. ``python -S`` finds no ubgen, as where it is not installed. A program that
needs another interpreter, such as one that reads other variables when torch is imported, is started by the usual one.

The workers of one run of the tests share the servers, which end with the last of them.
"""

import atexit
import fcntl
import gc
import io
import json
import os
import resource
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO, cast

from . import SUPPORT
from .warm_client import read_early

# what the commands use; a library that is not there is left to those that need it
_BEFORE_HUGGING_FACE = (
    "torch",
    "torch._dynamo",
    "torch._inductor.config",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.nn.attention.flex_attention",
    "torchvision.io",
    "torchvision.transforms.v2",
    "aiohttp",
    "boto3",
    "dill",
    "fsspec.implementations.http",
    "hf_xet",
    "httpx2",
    "jinja2",
    "multiprocess",
    "pandas",
    "PIL.Image",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "regex",
    "requests",
    "rich.console",
    "rich.markdown",
    "rich.table",
    "s3transfer",
    "safetensors.torch",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.metrics",
    "tokenizers",
    "tqdm.contrib.concurrent",
    "xxhash",
    "yaml",
)
_HUGGING_FACE = (
    "datasets",
    "accelerate",
    "peft",
    "trl.trainer.base_trainer",
    "diffusers.loaders",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img",
    "diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3",
    "transformers.trainer",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
)
_LIBRARIES = (_BEFORE_HUGGING_FACE, _HUGGING_FACE)
_CLIENT = SUPPORT / "warm_client.py"
# many times what it takes on a machine that does nothing else
_START_SECONDS = 300
# what the run of the tests began with; a test may change its own
_ENVIRONMENT = dict(os.environ)


@cache
def warm_programs() -> Path:
    """A folder with ``python`` and ``ubgen``, whose servers end with the last worker that has called this."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir(), f"warm-python-{os.getuid()}-{run}")
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with _locked(folder) as is_there:
            if is_there:
                if not (folder / "users.socket").exists():
                    _start(folder)
                user = socket.socket(socket.AF_UNIX)
                user.connect(str(folder / "users.socket"))
                # it is closed when this process ends, however it does
                _connections.append(user)
                return folder


_connections: list[socket.socket] = []


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the folder against other processes; False: the last that used it has removed it meanwhile."""
    try:
        file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield os.fstat(file).st_nlink > 0
    finally:
        os.close(file)


def _start(folder: Path) -> None:
    for name in ("python", "ubgen"):
        usual = sys.executable if name == "python" else str(Path(sys.executable).with_name(name))
        program = folder / name
        program.write_text(
            f"#!{sys.executable} -IS\nimport runpy, sys\n"
            f"sys.argv = ['', {usual!r}, {str(folder)!r}, *sys.argv[1:]]\n"
            f"runpy.run_path({str(_CLIENT)!r}, run_name='__main__')\n"
        )
        program.chmod(0o755)
    path = os.pathsep.join([str(SUPPORT.parent), *filter(None, [_ENVIRONMENT.get("PYTHONPATH")])])
    (folder / "environment.json").write_text(json.dumps(read_early(_ENVIRONMENT)), encoding="utf-8")
    started, says = os.pipe()
    server = subprocess.Popen(
        [sys.executable, "-m", "support.warm_python", str(folder), str(says), json.dumps(_LIBRARIES)],
        cwd=SUPPORT.parent,
        env={**_ENVIRONMENT, "PYTHONPATH": path, "HF_HOME": str(folder / "hf")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[says],
        start_new_session=True,
    )
    os.close(says)
    ready, _, _ = select.select([started], [], [], _START_SECONDS)
    has_started = ready and os.read(started, 1)
    os.close(started)
    if not has_started:
        os.killpg(server.pid, signal.SIGKILL)
        # the next test that asks for them starts them anew
        for address in folder.glob("*.socket"):
            address.unlink()
        raise RuntimeError(f"the servers of warm programs did not start in {_START_SECONDS} seconds")


def serve(folder: Path, says: int, libraries: list[list[str]]) -> dict[str, Any]:
    """Be both servers; what returns is a process that was forked for a call, with the call that it is to run."""
    # a process that has ended leaves nothing behind
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _import(libraries[0])
    with _listener(folder / "torch.socket") as calls, _listener(folder / "users.socket") as new_users:
        second = os.fork()
        if second == 0:
            calls.close()
            new_users.close()
            _import(libraries[1])
            return _serve_all(folder, says)
        os.close(says)
        return _serve_torch(folder, second, calls, new_users)


def _serve_all(folder: Path, says: int) -> dict[str, Any]:
    with _listener(folder / "all.socket") as calls:
        os.write(says, b"1")
        os.close(says)
        while True:
            if call := _taken(calls, [calls]):
                return call


def _serve_torch(folder: Path, second: int, calls: socket.socket, new_users: socket.socket) -> dict[str, Any]:
    """Serve, and end both servers with their last user."""
    users: list[socket.socket] = []
    while True:
        ready, _, _ = select.select([calls, new_users, *users], [], [])
        if calls in ready and (call := _taken(calls, [calls, new_users, *users])):
            return call
        if new_users in ready:
            users.append(new_users.accept()[0])
        # a user says nothing: what is there to be read is its end
        for user in [user for user in users if user in ready]:
            user.close()
            users.remove(user)
            if not users:
                _end_unless_used(folder, second, new_users)


def _import(names: Sequence[str]) -> None:
    for name in names:
        try:
            import_module(name)
        except ImportError:
            continue
    # what a fork never counts again stays in memory that it shares with the others
    gc.collect()
    gc.freeze()


def _listener(address: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(64)
    return listener


def _taken(calls: socket.socket, inherited: list[socket.socket]) -> dict[str, Any] | None:
    """Take a call; None in the server, the call in the process that is forked for it."""
    connection, _ = calls.accept()
    if os.fork() == 0:
        for other in inherited:
            other.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return _supervise(connection)
    connection.close()
    return None


def _end_unless_used(folder: Path, second: int, new_users: socket.socket) -> None:
    with _locked(folder):
        ready, _, _ = select.select([new_users], [], [], 0)
        if not ready:
            os.kill(second, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(0)


def _supervise(connection: socket.socket) -> dict[str, Any]:
    """Fork the program, which returns; pass signals on to it, its status back, and end it with its caller."""
    with connection:
        message, files, _, _ = socket.recv_fds(connection, 1 << 24, 3)
        while not message.endswith(b"\n"):
            message += connection.recv(1 << 24)
        child = os.fork()
        if child == 0:
            for target, file in enumerate(files):
                os.dup2(file, target)
                os.close(file)
            return json.loads(message)
        for file in files:
            os.close(file)
        for target in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), target)
        ended = os.pidfd_open(child)
        while True:
            ready, _, _ = select.select([ended, connection], [], [])
            if ended in ready:
                _, status = os.waitpid(child, 0)
                connection.sendall(b"%d" % os.waitstatus_to_exitcode(status))
                os._exit(0)
            sent = connection.recv(1)
            os.kill(child, sent[0] if sent else signal.SIGKILL)
            if not sent:
                os._exit(0)


def be_program(call: dict[str, Any]) -> NoReturn:
    """Be the program that was called, and end as it does.

    All that an interpreter does at its end is done but to take every module apart, which takes longer than to fork.
    """
    status = 0
    try:
        _run(call)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
            status = 1
        else:
            status = end.code or 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    # waits for the threads that are no daemons
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    for file in (sys.stdout, sys.stderr):
        file.flush()
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


def _run(call: dict[str, Any]) -> None:
    searched = _searched(call)
    os.environ.clear()
    os.environ.update(call["environment"])
    os.chdir(call["folder"])
    os.umask(call["umask"])
    resource.setrlimit(resource.RLIMIT_FSIZE, call["largest_file"])
    # what was found out or drawn for the server
    tempfile.tempdir = None
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    sys.path[:] = ["", *searched]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # those of the server know what its own files could do
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = _output_like(sys.__stdout__, 1)
    sys.stderr = sys.__stderr__ = _output_like(sys.__stderr__, 2)
    kind, words = call["words"][0], call["words"][1:]
    if kind == "-c":
        sys.argv, sys.path[0] = ["-c", *words[1:]], ""
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        exec(compile(words[0], "<string>", "exec"), module.__dict__)
    elif kind == "-m":
        sys.argv, sys.path[0] = words, call["folder"]
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [kind, *words], str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")


def _output_like(there: TextIO | None, descriptor: int) -> TextIO:
    """A new stream, for what the server's own knows of the variables that an interpreter reads when it starts."""
    there = cast(io.TextIOWrapper, there)
    if there.write_through:
        raw = os.fdopen(descriptor, "wb", buffering=0, closefd=False)
        return io.TextIOWrapper(cast(BinaryIO, raw), there.encoding, there.errors, write_through=True)
    buffering = 1 if descriptor == 2 or os.isatty(descriptor) else -1
    return os.fdopen(descriptor, "w", buffering, there.encoding, there.errors, closefd=False)


def _searched(call: dict[str, Any]) -> list[str]:
    """Where the program looks for modules, its own folder aside."""
    # the server's own came first: the tests' folder twice, as its folder and by the variable
    own = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), str(SUPPORT.parent)]
    usual = [entry for entry in sys.path if entry not in own]
    if call["is_bare"]:
        # the installed libraries, and what finds an installed clone, come from site, which is left out
        libraries = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
        standard = sysconfig.get_path("stdlib")
        usual = [
            entry
            for entry in usual
            if not entry.startswith(libraries) and entry.startswith((standard, sys.base_prefix))
        ]
        sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in str(finder)]
    named = call["environment"].get("PYTHONPATH", "").split(os.pathsep)
    named = [os.path.join(call["folder"], entry) for entry in named if entry]
    return [*named, *(entry for entry in usual if entry not in named)]


if __name__ == "__main__":
    be_program(serve(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])))

"""A Python that has imported the large libraries already, for tests that start many commands.

Most of a small command's time is that of its imports. Here a server imports the libraries once, and forks for each
program, which then runs in a process, folder and environment of its own as always. None of our own modules is
imported before the fork. :func:`warm_programs` gives a folder with programs ``python`` and ``ubgen`` to start instead
of those beside :data:`sys.executable`; they hand what they were called with to the server, and pass signals, output
and exit status on. A program that needs another interpreter, such as one that reads other variables when a library is
imported, is started by the usual one.
"""

import atexit
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import types
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from . import SUPPORT
from .warm_client import read_early

# what the commands use; a library that is not there is left to those that need it
_LIBRARIES = (
    "torch",
    "torchvision",
    "datasets",
    "pyarrow.parquet",
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
    "sklearn.linear_model",
    "scipy.stats",
)
_CLIENT = SUPPORT / "warm_client.py"
_START_SECONDS = 120


@cache
def warm_programs() -> Path:
    """A folder with ``python`` and ``ubgen``, whose server ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="warm-python-"))
    for name in ("python", "ubgen"):
        usual = sys.executable if name == "python" else str(Path(sys.executable).with_name(name))
        program = folder / name
        program.write_text(
            f"#!{sys.executable} -IS\nimport runpy, sys\n"
            f"sys.argv = ['', {usual!r}, {str(folder / 'socket')!r}, *sys.argv[1:]]\n"
            f"runpy.run_path({str(_CLIENT)!r}, run_name='__main__')\n"
        )
        program.chmod(0o755)
    path = os.pathsep.join([str(SUPPORT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    (folder / "socket.json").write_text(json.dumps(read_early()), encoding="utf-8")
    started, says = os.pipe()
    server = subprocess.Popen(
        [sys.executable, "-m", "support.warm_python", str(folder / "socket"), str(says)],
        env={**os.environ, "PYTHONPATH": path, "HF_HOME": str(folder / "hf")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[says],
        start_new_session=True,
    )
    os.close(says)
    atexit.register(_stop, server, folder)
    ready, _, _ = select.select([started], [], [], _START_SECONDS)
    assert ready and os.read(started, 1), "the server of warm programs did not start"
    os.close(started)
    return folder


def _stop(server: "subprocess.Popen[bytes]", folder: Path) -> None:
    server.kill()
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


def serve(address: str, says: int) -> dict[str, Any]:
    """Fork for every call; what returns is a forked process, with the call that it is to run."""
    for name in _LIBRARIES:
        try:
            import_module(name)
        except ImportError:
            continue
    # a process that has ended leaves nothing behind
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        os.write(says, b"1")
        os.close(says)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return _supervise(connection)
            connection.close()


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


def run_call(call: dict[str, Any]) -> None:
    """Be the program that was called."""
    os.environ.clear()
    os.environ.update(call["environment"])
    os.chdir(call["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # those of the server know what its own files could do
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", errors="backslashreplace", buffering=1, closefd=False)
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


if __name__ == "__main__":
    called = serve(sys.argv[1], int(sys.argv[2]))
    # the tests' own modules are no part of a program
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != SUPPORT.parent]
    sys.path.insert(0, "")
    run_call(called)

"""Runs a program in a fork of the server of :mod:`support.warm_python`: the usual program, the socket, then its words.

It imports little, since starting it should cost next to nothing.
"""

import json
import os
import signal
import socket
import sys

# variables that begin so are read when a library is imported, or when the interpreter starts
_READ_EARLY = (
    *("ACCELERATE", "CUDA", "DATASETS", "DIFFUSERS", "HF_", "HUB_", "LANG", "LC_", "MKL", "OMP", "PYTHON", "TORCH"),
    "TRANSFORMERS",
)
# where nothing is fetched this is a folder of caches alone, and the server has one of its own
_MAY_DIFFER = "HF_HOME"
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def read_early() -> dict[str, str]:
    """The variables of this process that a forked program could not take over."""
    return {name: value for name, value in os.environ.items() if name.startswith(_READ_EARLY) and name != _MAY_DIFFER}


def main() -> None:
    _, usual, address, *words = sys.argv
    is_python = os.path.basename(usual).startswith("python")
    has_other_options = is_python and (not words or (words[0].startswith("-") and words[0] not in ("-c", "-m")))
    with open(address + ".json", encoding="utf-8") as file:
        is_alike = json.load(file) == read_early()
    if has_other_options or not is_alike:
        os.execv(usual, [usual, *words])
    call = {
        "words": words if is_python else [usual, *words],
        "folder": os.getcwd(),
        "environment": dict(os.environ),
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        message = json.dumps(call).encode() + b"\n"
        sent = socket.send_fds(connection, [message], [0, 1, 2])
        connection.sendall(message[sent:])
        for number in _PASSED_ON:
            signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
        status = int(connection.recv(16) or b"-9")
    if status < 0:
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()

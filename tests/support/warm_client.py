"""Runs a program in a fork of a server of :mod:`support.warm_python`: the usual program, the folder, then its words.

It imports little, since starting it should cost next to nothing.
"""

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping

# variables that begin so are read when the interpreter starts, or when torch is imported
_READ_BY_TORCH = ("CUDA", "LANG", "LC_", "MKL", "OMP", "PYTHON", "TORCH")
# and those, when one of Hugging Face's libraries is
_READ_BY_HUGGING_FACE = ("ACCELERATE", "DATASETS", "DIFFUSERS", "HF_", "HUB_", "TRANSFORMERS")
# but not these: with them a launcher tells its programs of devices and of their place among the others
_OF_LAUNCHERS = ("ACCELERATE_", "DS_ACCELERATOR", "TORCHELASTIC_", "TORCH_NCCL_")
# a fork looks for modules where it is told to; where nothing is fetched the other is a folder of caches alone, and the
# server has one of its own; the last is set by torch itself once its compiler is imported
_MAY_DIFFER = ("PYTHONPATH", "HF_HOME", "TORCHINDUCTOR_CACHE_DIR")
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def read_early(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of a process that a forked program could not take over."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith((*_READ_BY_TORCH, *_READ_BY_HUGGING_FACE))
        and not (name in _MAY_DIFFER or name.startswith(_OF_LAUNCHERS))
    }


def server_for(known: dict[str, str]) -> str | None:
    """The server whose forks are like this program, if there is one.

    Args:
        known: what :func:`read_early` gave when the servers were started.
    """
    here = read_early()
    differing = [name for name in here.keys() | known.keys() if here.get(name) != known.get(name)]
    if not differing:
        return "all"
    return "torch" if all(name.startswith(_READ_BY_HUGGING_FACE) for name in differing) else None


def main() -> None:
    _, usual, folder, *words = sys.argv
    is_python = os.path.basename(usual).startswith("python")
    is_bare = is_python and words[:1] == ["-S"]
    told = words[1:] if is_bare else words
    has_other_options = is_python and (not told or (told[0].startswith("-") and told[0] not in ("-c", "-m")))
    with open(folder + "/environment.json", encoding="utf-8") as file:
        server = server_for(json.load(file))
    if has_other_options or server is None:
        os.execv(usual, [usual, *words])
    umask = os.umask(0)
    os.umask(umask)
    call = {
        "words": told if is_python else [usual, *told],
        "is_bare": is_bare,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "umask": umask,
        "largest_file": resource.getrlimit(resource.RLIMIT_FSIZE),
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{folder}/{server}.socket")
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

"""Files and folders that are there whole or not at all, whenever the process is killed or the disk is full.

The content is written under a temporary name, flushed to the disk and renamed, which replaces what had the name in one
step. No other module renames. The one exception grows: :func:`append_line`.

    .NAME.HOST.PROCESS-THREAD.tmp     the temporary name, hidden from globs and from ``datasets``; in the same folder,
                                      because a rename does not lead from one disk to another
"""

import glob
import os
import platform
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(file: str | Path, temporary_folder: Path | None = None) -> Iterator[Path]:
    """A path to write to in the body; when the body ends, ``file`` has what was written there.

    If the body raises, or the process is killed, ``file`` stays as it was. It gets the permissions of any newly made
    file, whatever those were that the body gave it. Temporary files of killed processes are cleared.

    Args:
        file: what to write or replace; its folder is made where it is missing.
        temporary_folder: another folder of the same disk for the temporary file, for where a stranger would take it
            for one of the folder's own.

    Raises:
        OSError: what the system says, such as that the disk is full.
    """
    file = Path(file)
    folder = file.parent if temporary_folder is None else temporary_folder
    temporary = _temporary(folder / file.name)
    for parent in (file.parent, folder):
        parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(folder / file.name)
    try:
        # a new file tells what the umask and the folder's own rules give
        temporary.touch()
        permissions = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != permissions:
            temporary.chmod(permissions)
        _flush(temporary)
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush(file.parent)


def write_whole_text(file: str | Path, text: str, temporary_folder: Path | None = None) -> None:
    """Write ``text`` as UTF-8 through :func:`whole_file`."""
    with whole_file(file, temporary_folder) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A new folder to fill in the body; when the body ends, it is ``folder``, which must be missing or empty.

    If the body raises, nothing of it is left.
    """
    folder = Path(folder)
    temporary = _temporary(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(folder)
    # left by an earlier process of the same number
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        # one call, because a dataset's export may be a million files
        os.sync()
        os.rename(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush(folder.parent)


def move_into_place(written: Path, place: Path) -> None:
    """Rename a finished file, or a folder with all its files, to ``place`` on the same disk once it is flushed there.

    A file of that name is replaced in one step. A folder of that name is renamed to ``.NAME.replaced`` first and then
    removed, since a folder that holds something cannot be replaced in one step.
    """
    for path in (*sorted(path for path in written.rglob("*") if path.is_file()), written):
        _flush(path)
    replaced = place.with_name(f".{place.name}.replaced")
    if place.is_dir():
        shutil.rmtree(replaced, ignore_errors=True)
        os.replace(place, replaced)
    os.replace(written, place)
    _flush(place.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _temporary(path: Path) -> Path:
    owner = f"{os.getpid()}-{threading.get_native_id()}"
    return path.with_name(f".{path.name}.{_host()}.{owner}.tmp")


def _clear_abandoned(path: Path) -> None:
    """Remove what processes of this machine that no longer live left for ``path``; of others nobody here can know."""
    pattern = f".{glob.escape(path.name)}.{glob.escape(_host())}.*.tmp"
    for leftover in path.parent.glob(pattern):
        process = leftover.name.removesuffix(".tmp").rpartition(".")[2].partition("-")[0]
        if process.isdecimal() and not _is_alive(int(process)):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # another user's
        return True
    return True


def _host() -> str:
    """This machine, and on Linux which of its containers: two of one name may number their processes alike."""
    name = platform.node()[:32]
    try:
        return f"{name}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return name


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file, and return once it is on the disk; a crash can leave a torn last line, not more."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(line + "\n")
        stream.flush()
        os.fsync(stream.fileno())

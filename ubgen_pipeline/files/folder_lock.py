"""One run at a time in an output folder. The lock is the operating system's, so it ends with the process, even killed.

    .ubgen/rank-R.lock    held by rank R of the run that writes into the folder, and removed when it ends

Ranks of one run hold one each. Of two runs each has a rank 0, so the second is refused, however many ranks it has.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# of an output folder: what a run keeps for itself there; ``datasets`` does not look into it
STATE_FOLDER = ".ubgen"
# a run that has just ended takes a moment to let go
_PATIENCE = 1.0


@contextmanager
def writing_into(folder: str | Path, rank: int = 0) -> Iterator[None]:
    """Hold the folder; where the body writes nothing into a folder that was not there, it is not there afterwards.

    A folder that cannot be written is not locked: the body will say what is wrong with it.

    Args:
        folder: where the body writes; made for the lock if it is missing.
        rank: of this process in its run.

    Raises:
        ValueError: another run is writing into it, or it is the address of a store.
    """
    from filelock import FileLock, Timeout

    if "://" in str(folder):
        raise ValueError(
            f"output_dir is {str(folder)!r}, an address, and this command writes to a local folder; give one."
        )
    folder = Path(folder).expanduser()
    file = folder / STATE_FOLDER / f"rank-{rank}.lock"
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(file, timeout=_PATIENCE)
    is_writable = True
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"output_dir is {str(folder)!r}, into which {_holder(file)} is writing; wait until it ends, or give"
            " another directory."
        ) from None
    except (OSError, NotImplementedError):
        is_writable = False
    if not is_writable:
        yield
        return
    try:
        with suppress(OSError):
            file.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        # before it is let go, so that nobody else's is removed
        file.unlink(missing_ok=True)
        lock.release()
        if rank == 0:
            _remove_abandoned(file.parent)
        with suppress(OSError):
            for path in (file.parent, *made):
                path.rmdir()


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed ranks left."""
    from filelock import FileLock, Timeout

    for file in folder.glob("rank-*.lock"):
        with suppress(OSError, Timeout), FileLock(file, timeout=0):
            file.unlink()


def _holder(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") or "another run"
    except (OSError, UnicodeDecodeError):
        return "another run"

"""Temporary folders that do not outlive their process for long, even one that was killed.

    ubgen-3f0c….lock      held by the process, by the operating system's means, so it is free once the process is gone
    ubgen-3f0c…/          its folder

Whoever makes such a folder removes first what killed processes of the same user left in the same place.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

_PREFIX = "ubgen-"


@contextmanager
def process_folder() -> Iterator[Path]:
    """An empty folder among the system's temporary ones, for this user's eyes, that is removed after the body.

    Raises:
        OSError: it cannot be made.
    """
    from filelock import FileLock

    place = Path(tempfile.gettempdir())
    _remove_abandoned(place)
    folder = place / f"{_PREFIX}{uuid4().hex}"
    lock_file = folder.with_suffix(".lock")
    with FileLock(lock_file):
        try:
            folder.mkdir(mode=0o700)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            # before it is let go, as nobody holds a file that is gone
            lock_file.unlink(missing_ok=True)


def _remove_abandoned(place: Path) -> None:
    from filelock import FileLock, Timeout

    for lock_file in place.glob(f"{_PREFIX}*.lock"):
        with suppress(OSError, Timeout):
            if _is_own_file(lock_file):
                with FileLock(lock_file, timeout=0):
                    shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)
                    lock_file.unlink(missing_ok=True)


def _is_own_file(file: Path) -> bool:
    """Whether it is this user's and no link: everybody may write into the system's temporary folder."""
    found = file.lstat()
    return stat.S_ISREG(found.st_mode) and (not hasattr(os, "getuid") or found.st_uid == os.getuid())

"""Where libraries' messages go while a command runs: to a log file, which the command names when it ends.

A library writes warnings, logging and progress bars to ``sys.stderr``, so one stream that takes its place holds them
all, whatever the library. Our own lines pass it by (``console.terminal``), and so does the traceback of a defect,
which is printed after the command has ended.
"""

import io
import logging
import os
import re
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any, TextIO

from .console import end_line, is_terminal, say, say_warning, show_line

_OURS = ("ubgen_pipeline", "ubgen_training", "ubgen_evaluation", "ubgen_hub_cards")
# a file on its way from or to the Hub: the one bar of a library that a user waits for
_TRANSFER = re.compile(r"B/s[\],\s]*$")
_CURSOR_MOVES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class LibraryLog(io.TextIOBase):
    """A stream for the place of ``sys.stderr``: whole lines, each with its time, go to a file made with the first.

    Progress bars are left out; a transfer's is shown where ``behind`` is a terminal.

    Args:
        behind: the real stderr.
    """

    encoding = "utf-8"

    def __init__(self, behind: TextIO):
        self.behind = behind
        self.file: Path | None = None
        self.num_lines = 0
        self.is_active = True
        self._line = ""
        self._early: list[str] = []
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Take that text; after the command, where a library still holds this stream, it goes to stderr."""
        if not self.is_active:
            return sys.stderr.write(text)
        if text.startswith("\r"):
            if _TRANSFER.search(text) and is_terminal():
                show_line(text.strip())
            return len(text)
        with self._lock:
            *lines, self._line = (self._line + _CURSOR_MOVES.sub("", text)).split("\n")
            self._keep([line for line in lines if line.strip()])
        return len(text)

    def flush(self) -> None:
        """Every line is written at once, so there is nothing to do."""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        """That of the real stderr, for what is written below Python."""
        return self.behind.fileno()

    def move_to(self, file: Path) -> None:
        """Write to that file from now on, beginning with what is there so far."""
        with self._lock:
            if self.file is None:
                self.file = file
                self._write()

    def end(self) -> None:
        """Write what is left; further text goes to stderr."""
        with self._lock:
            if self._line.strip():
                self._keep([self._line])
            self.is_active = False
            if self.num_lines and self.file is None:
                descriptor, name = tempfile.mkstemp(prefix="ubgen-", suffix=".log")
                os.close(descriptor)
                self.file = Path(name)
                self._write()

    def _keep(self, lines: list[str]) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._early += [f"{now} {line}\n" for line in lines]
        self.num_lines += len(lines)
        self._write()

    def _write(self) -> None:
        """A log that cannot be written stops no command."""
        if self.file is not None and self._early:
            with suppress(OSError):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with open(self.file, "a", encoding="utf-8", errors="replace") as stream:
                    stream.writelines(self._early)
                self._early.clear()


@contextmanager
def library_log() -> Iterator[None]:
    """While the body runs, what libraries write to stderr goes to a log; its name is said afterwards.

    Our own warnings are lines of the command. Inside another one this does nothing.
    """
    if isinstance(sys.stderr, LibraryLog):
        yield
        return
    log = LibraryLog(sys.stderr)
    show_any = warnings.showwarning

    def show(
        message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: str | None = None
    ) -> None:
        if file is None and _is_ours(filename):
            say_warning(message)
        else:
            show_any(message, category, filename, lineno, file, line)

    try:
        with redirect_stderr(log):
            warnings.showwarning = show
            yield
    finally:
        warnings.showwarning = show_any
        log.end()
        end_line()
        if log.num_lines:
            say(f"{log.num_lines} lines of libraries are in {log.file}")


def log_into(folder: Path) -> None:
    """Write the running command's log to ``rank-R.log`` in a folder that stays; without a command, do nothing."""
    if isinstance(sys.stderr, LibraryLog):
        sys.stderr.move_to(folder / f"rank-{os.environ.get('RANK', 0)}.log")


@contextmanager
def hushed(logger: str) -> Iterator[None]:
    """While the body runs, that library's logger lets only errors through; for warnings that a check has answered."""
    library = logging.getLogger(logger)
    level = library.level
    library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library.setLevel(level)


def _is_ours(filename: str) -> bool:
    """Whether a warning is of our own packages."""
    modules = [sys.modules.get(name) for name in _OURS]
    folders = [Path(path) for module in modules for path in getattr(module, "__path__", ())]
    return any(Path(filename).is_relative_to(folder) for folder in folders)

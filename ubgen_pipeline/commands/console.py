"""What a user reads while a command runs, on stderr; this is the one module that prints there. Results go to stdout.

    ubgen: out: 20 images of 10 classes in 1 shards                 a line, by ``say``
    ubgen: 12/20 images, 4.59 images/s, 00:00:02 left               ``Progress``: in a terminal one line, drawn anew
    ubgen: error: output_dir is '/x', which is a file; …            what stops the command, by ``say_error``

While a command runs, ``library_log`` takes everything else that is written to stderr into a file.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import TextIOWrapper
from typing import TextIO, TypeVar

from .stopwatch import stage

Row = TypeVar("Row")

# a waiting process says so early enough to be seen by somebody who watches, and then from time to time
FIRST_NOTE = 10.0
NOTE_EVERY = 60.0

# seconds between progress lines: in a terminal, and elsewhere where the variable does not say
TERMINAL_INTERVAL = 0.2
LONGEST_INTERVAL = 60.0
INTERVAL_VARIABLE = "UBGEN_PROGRESS_SECONDS"
_BAR_WIDTH = 20
_PROGRESS_LINE = re.compile(r"ubgen: \d+/\d+ .* left$")
_CLEAR_LINE = "\r\x1b[K"

# the progress line that a terminal shows now; other lines go above it
_shown = ""


def say(text: str) -> None:
    """A line on stderr, in the command's name."""
    _print_line(f"ubgen: {text}")


def say_error(error: object) -> None:
    """What stops the command, as a line on stderr."""
    say(f"error: {error}")


def say_warning(warning: object) -> None:
    """What a user should know although the command goes on, as a line on stderr."""
    say(f"warning: {warning}")


def relay(line: str) -> None:
    """A line of a command that this one has started; its progress stays one line in a terminal."""
    if _PROGRESS_LINE.match(line) and is_terminal():
        show_line(line)
    else:
        _print_line(line)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The rows under the header as text: the first column to the left, numbers to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(cell.rjust(width) if number else cell.ljust(width) for number, (cell, width) in enumerate(cells))
        for cells in (zip(line, widths) for line in lines)
    )


class Progress:
    """Counts what is done, and shows it with the rate and the time left.

    In a terminal one line is drawn anew, with a bar. Elsewhere lines come less and less often, at least one a minute,
    or every ``UBGEN_PROGRESS_SECONDS`` seconds.

    Args:
        total: how many there are.
        unit: what they are, in the plural, such as ``images``.
        done: of them, before this run; they do not count for the rate.
    """

    def __init__(self, total: int, unit: str, done: int = 0):
        self.total, self.unit, self.done = total, unit, done
        self._before = done
        self._started = time.monotonic()
        self._next = self._started + self._interval(0.0)

    def advance(self, count: int = 1, note: str = "") -> None:
        """So many more are done; ``note`` says more about the last ones."""
        self.done += count
        now = time.monotonic()
        if now < self._next and self.done < self.total:
            return
        self._next = now + self._interval(now - self._started)
        counted = f"{self.done}/{self.total} {self.unit}{note and ', '}{note}"
        if self.done < self.total and is_terminal():
            filled = _BAR_WIDTH * self.done // max(self.total, 1)
            show_line(f"ubgen: [{'#' * filled}{' ' * (_BAR_WIDTH - filled)}] {counted}, {self._rate_and_left(now)}")
        else:
            say(f"{counted}, {self._rate_and_left(now)}")

    def counted(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, each of which is done when the next is asked for."""
        for row in rows:
            yield row
            self.advance()

    @property
    def rate(self) -> float:
        """How many were done in a second, since this was made."""
        return (self.done - self._before) / max(time.monotonic() - self._started, 1e-9)

    def _rate_and_left(self, now: float) -> str:
        rate = (self.done - self._before) / max(now - self._started, 1e-9)
        seconds = (self.total - self.done) / max(rate, 1e-9)
        left = clock_time(seconds) if rate or not seconds else "unknown time"
        # slow ones with two digits that count, as in 0.015
        return f"{rate:{'.2f' if rate >= 0.1 else '.2g'}} {self.unit}/s, {left} left"

    def _interval(self, elapsed: float) -> float:
        if is_terminal():
            return TERMINAL_INTERVAL
        try:
            return float(os.environ[INTERVAL_VARIABLE])
        except (KeyError, ValueError):
            # after 1, 2, 4, 8 … seconds: somebody who watches sees the first, and a long run leaves a short log
            return min(max(elapsed, 1.0), LONGEST_INTERVAL)


def pause(seconds: float, why: str) -> None:
    """Sleep so long, and say what for."""
    say(f"waiting for {why}; again in {seconds:g} s")
    with stage("waiting"):
        time.sleep(seconds)


class WaitingNote:
    """Waits in small steps, and after a while says for whom, so that a lost process is noticed.

    Args:
        for_whom: text of what is waited for, asked for when it is printed.
    """

    def __init__(self, for_whom: Callable[[], str]):
        self.for_whom = for_whom
        self._started = time.monotonic()
        self._next = self._started + FIRST_NOTE

    def wait(self, seconds: float) -> None:
        """Sleep so long; print a line where one is due."""
        with stage("waiting"):
            time.sleep(seconds)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + NOTE_EVERY
            say(
                f"waiting for {self.for_whom()} ({now - self._started:.0f} s so far); if that process is lost, stop"
                " this one and run the same command again: it resumes"
            )


def clock_time(seconds: float) -> str:
    """Hours, minutes and seconds, as in 26:03:07."""
    whole = round(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def terminal() -> TextIO:
    """Where lines go: stderr, also while a command's ``LibraryLog`` stands in its place."""
    return getattr(sys.stderr, "behind", sys.stderr)


def is_terminal() -> bool:
    """Whether somebody watches, so that a line can be drawn anew."""
    return terminal().isatty()


def show_line(text: str) -> None:
    """Show that line in the terminal until the next is shown or printed; it is cut to the terminal's width."""
    global _shown
    _shown = text[: shutil.get_terminal_size().columns - 1]
    print(_CLEAR_LINE + _shown, end="", file=terminal(), flush=True)


def end_line() -> None:
    """Leave the line that is shown as it stands; what is printed next comes below."""
    global _shown
    if _shown:
        print(file=terminal(), flush=True)
    _shown = ""


def print_any_text() -> None:
    """From now on a terminal that knows ASCII alone gets an escape in place of an ellipsis, instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def close_stdout() -> int:
    """What is still buffered goes nowhere: the reader of stdout, such as ``head``, has seen enough. The exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _print_line(line: str) -> None:
    global _shown
    print((_CLEAR_LINE if _shown else "") + line, file=terminal(), flush=True)
    _shown = ""

"""What a user reads while a command runs: the one module that prints to stderr. Results are printed to stdout."""

import os
import sys
import time
from collections.abc import Callable

# a waiting process says so early enough to be seen by somebody who watches, and then from time to time
FIRST_NOTE = 10.0
NOTE_EVERY = 60.0


def say(text: str) -> None:
    """A line on stderr, in the command's name."""
    print(f"ubgen: {text}", file=sys.stderr, flush=True)


def say_error(error: object) -> None:
    """What stops the command, as a line on stderr."""
    say(f"error: {error}")


def close_stdout() -> int:
    """What is still buffered goes nowhere: the reader of stdout, such as ``head``, has seen enough. The exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


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
        time.sleep(seconds)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + NOTE_EVERY
            say(
                f"waiting for {self.for_whom()} ({now - self._started:.0f} s so far); if that process is lost, stop"
                " this one and run the same command again: it resumes"
            )

"""One thread at a time loads networks.

While transformers and accelerate load, they change torch for all threads: parameters are made without data, and the
default precision is that of the model.
"""

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

LOADING = threading.RLock()
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def one_at_a_time(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, which other threads wait for that load something."""

    @functools.wraps(function)
    def waiting(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with LOADING:
            return function(*args, **kwargs)

    return waiting

"""Which of torch's attention kernels is the fastest on this GPU, timed at the shapes that the model calls them with.

Kernels round differently, so the choice is kept in a dataset's manifest like everything else of :class:`.Inference`.
"""

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

OWN_ORDER = "auto"
_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# another kernel must be faster than torch's own choice by this factor; a smaller gain may be an error of timing
_LEAST_GAIN = 1.03

# shapes (B, heads, tokens, width) of queries and of keys, with how often they occur
AttentionCalls = Counter[tuple[tuple[int, ...], tuple[int, ...]]]


class _CallRecorder(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: AttentionCalls = Counter()
        self.is_inside = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.is_inside and func is F.scaled_dot_product_attention:
            query, key = (args[i] if len(args) > i else kwargs[name] for i, name in enumerate(("query", "key")))
            self.calls[tuple(query.shape), tuple(key.shape)] += 1
        return func(*args, **kwargs)


def attention_calls(model: nn.Module, call: Callable[[], object]) -> AttentionCalls:
    """The attention that ``model``, not compiled, asks torch for while ``call`` runs it in this thread."""

    def enter(*_: Any) -> None:
        recorder.is_inside = True

    def leave(*_: Any) -> None:
        recorder.is_inside = False

    handles = [model.register_forward_pre_hook(enter), model.register_forward_hook(leave)]
    try:
        with _CallRecorder() as recorder:
            call()
    finally:
        for handle in handles:
            handle.remove()
    return recorder.calls


def fastest_attention(
    calls: AttentionCalls, dtype: torch.dtype, device: torch.device, *, timer: Callable[..., float] | None = None
) -> str:
    """The kernel with the shortest time for all those calls together; ``auto`` for torch's own order.

    Kernels that cannot do one of the calls are left out.

    Args:
        calls: of one pass.
        dtype: of queries, keys and values.
        device: that they lie on.
        timer: ``(query, key, repeats) -> seconds`` of one call; the median of so many if not given.
    """
    timer = timer or _seconds
    seconds = {}
    for name in (OWN_ORDER, *_BACKENDS):
        try:
            # torch gives a warning for each reason why a kernel does not work
            with attention_order(name, only=True), warnings.catch_warnings(action="ignore"):
                seconds[name] = sum(
                    count * timer(*(torch.randn(shape, device=device).to(dtype) for shape in shapes), 10)
                    for shapes, count in calls.items()
                )
        # raised where there is no kernel of that kind for these shapes on this GPU
        except RuntimeError:
            continue
    fastest = min(seconds, key=seconds.__getitem__)
    return fastest if seconds[OWN_ORDER] > _LEAST_GAIN * seconds[fastest] else OWN_ORDER


@contextmanager
def attention_order(name: str, *, only: bool = False) -> Iterator[None]:
    """Have torch try that kernel first, in all threads, and the others where it cannot; ``auto`` changes nothing.

    Args:
        name: ``auto``, ``flash``, ``cudnn``, ``efficient`` or ``math``.
        only: try no other.
    """
    if name == OWN_ORDER:
        yield
        return
    first = _BACKENDS[name]
    rest = [] if only else [backend for backend in _BACKENDS.values() if backend is not first]
    with sdpa_kernel([first, *rest], set_priority=True):
        yield


def _seconds(query: torch.Tensor, key: torch.Tensor, repeats: int) -> float:
    def call() -> None:
        F.scaled_dot_product_attention(query, key, key)
        if query.is_cuda:
            torch.cuda.synchronize(query.device)

    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)

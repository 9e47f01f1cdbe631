"""What this machine can do, measured: the rate of its largest matrix product and of a memory copy."""

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import torch

from ubgen_pipeline.inference.library_internals import has_onednn_products, packed_linear, packed_weight

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "datasets", "pillow")


def seconds_of(
    call: Callable[[], object], device: str, repeats: int = 1, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median seconds of a call on ``clock``, the device's work included."""
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        start = clock()
        call()
        synchronize(device)
        seconds.append(clock() - start)
    return statistics.median(seconds)


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def product_rate(device: str, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> float:
    """Operations per second of ``clock`` of the fastest square matrix product tried, two for each multiply-add.

    On a CPU torch's own product and oneDNN's: on AMD's the two are a factor of two apart.
    """
    rates = []
    for size in (4096, 8192, 16384) if device.startswith("cuda") else (512, 1024, 2048):
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        torch.mm(left, right)
        rates.append(2 * size**3 / seconds_of(lambda: torch.mm(left, right), device, 5, clock))  # noqa: B023
        if device == "cpu" and has_onednn_products(dtype):
            packed = packed_weight(right)
            product = lambda: packed_linear(left, packed, None)  # noqa: B023, E731
            rates.append(2 * size**3 / seconds_of(product, device, 5, clock))
    return max(rates)


def copy_rate(device: str) -> float:
    """Bytes read and written per second by a copy far larger than the caches."""
    source = torch.ones(2**30 if device.startswith("cuda") else 2**26, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.numel() * 4 / seconds_of(lambda: target.copy_(source), device, 5)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Let a GPU's convolutions compute in full float32; by default torch lets them round to TF32."""
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def machine_line(device: str) -> str:
    """The machine and the versions, for the head of a table."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else _processor()
    threads = "" if device.startswith("cuda") else f", {torch.get_num_threads()} threads"
    return f"{name}{threads}; Python {platform.python_version()}, " + ", ".join(
        f"{library} {version(library)}" for library in LIBRARIES
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

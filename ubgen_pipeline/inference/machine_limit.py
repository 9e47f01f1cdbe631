"""What this machine can compute at most: the measured rate of its fastest matrix product, kept for later runs."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..files.whole_files import write_whole_text
from .library_internals import has_onednn_products, packed_linear, packed_weight

# side of the square matrices: enough for a CPU to be busy, and for a GPU that starts kernels slowly
_SIZES = {"cpu": 1024, "cuda": 8192}
_REPEATS = 5


def machine_limit(device: str, dtype: torch.dtype, folder: Path) -> float:
    """Operations per second of a matrix product, two for each multiply-add, with the threads that torch has now.

    It is measured once for each device, dtype, number of threads and version of torch, and kept in ``folder``, from
    where later runs read it; delete the file there to have it measured anew.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:0``, ….
        dtype: of the matrices.
        folder: where ``machine_limit.json`` is.
    """
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"
    machine = f"{platform.node()}, {name}, {dtype}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    file = folder / "machine_limit.json"
    known = _kept(file)
    if machine not in known:
        known = {**known, machine: _measured(device, dtype)}
        try:
            write_whole_text(file, json.dumps(known, indent=2) + "\n")
        except OSError:
            # it is measured again the next time
            return known[machine]
    return known[machine]


def _kept(file: Path) -> dict[str, float]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): float(rate) for name, rate in content.items() if float(rate) > 0}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _measured(device: str, dtype: torch.dtype) -> float:
    size = _SIZES["cuda" if device.startswith("cuda") else "cpu"]
    if device == "cpu" and dtype.itemsize < 4 and not has_onednn_products(dtype):
        # emulated, many times slower at any size
        size //= 4
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    products: list[Callable[[], Any]] = [lambda: torch.mm(left, right)]
    if device == "cpu" and has_onednn_products(dtype):
        # on some processors oneDNN's product is twice as fast as torch's own
        packed = packed_weight(right)
        products.append(lambda: packed_linear(left, packed, None))
    return max(2 * size**3 / _seconds(product, device) for product in products)


def _seconds(product: Callable[[], Any], device: str) -> float:
    seconds = []
    for _ in range(1 + _REPEATS):
        started = time.perf_counter()
        product()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    # the first one sets up what the others use
    return statistics.median(seconds[1:])

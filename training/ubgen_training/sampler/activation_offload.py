"""Activations that the way back needs wait for it in main memory, by PyTorch's own hooks on saved tensors."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch

# smaller ones, such as the statistics of a normalisation, cost more in transfers than they take
_LEAST_BYTES = 64 * 1024


def stays_on_device(saved: torch.Tensor) -> bool:
    """Whether a tensor that autograd saves is too small to be moved, or no plain one: subclasses hold several."""
    is_plain = type(saved) in (torch.Tensor, torch.nn.Parameter) and saved.layout == torch.strided
    return not is_plain or saved.nbytes < _LEAST_BYTES


def offload_activations(weights: Iterable[torch.Tensor], *, from_cpu: bool = False) -> AbstractContextManager[Any]:
    """A context in which what autograd saves on a device is kept in main memory until the backward pass reads it.

    Gradients are the same to the bit, since values are copied and nothing is computed anew. Device memory falls by the
    activations' size; each crosses the bus twice. Weights, which stay on the device anyway, and small tensors are left
    where they are.

    Args:
        weights: of the modules that run in the context.
        from_cpu: copy what is saved on the CPU, too, for tests.
    """
    kept = {weight.untyped_storage().data_ptr() for weight in weights}

    def pack(saved: torch.Tensor) -> tuple[torch.device, torch.Tensor] | torch.Tensor:
        on_cpu = saved.device.type == "cpu"
        if (on_cpu and not from_cpu) or stays_on_device(saved):
            return saved
        # views of a weight, such as its transpose, share its storage
        if saved.untyped_storage().data_ptr() in kept:
            return saved
        # pinned memory is what a device can be copied to while it goes on computing
        copy = torch.empty_like(saved, device="cpu", pin_memory=not on_cpu)
        return saved.device, copy.copy_(saved, non_blocking=not on_cpu)

    def unpack(packed: tuple[torch.device, torch.Tensor] | torch.Tensor) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        device, copy = packed
        # on a CPU, too, so that tests see the memory that a device would need
        return copy.to(device, non_blocking=True, copy=True)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)

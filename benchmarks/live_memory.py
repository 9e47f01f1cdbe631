"""Bytes of tensors without numbers that are alive, on torch's ``meta`` device and, moved there, in main memory."""

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ubgen_training.sampler.activation_offload import stays_on_device


class LiveMemory(TorchDispatchMode):
    """Bytes of the tensors on the ``meta`` device that are alive, and the most at one time.

    Args:
        networks: whose weights do not count.
    """

    def __init__(self, *networks: nn.Module):
        super().__init__()
        self.live = self.peak = 0
        weights = [weight for network in networks for weight in (*network.parameters(), *network.buffers())]
        # an address is used again once its tensor is gone, and these stay
        self._known = {weight.untyped_storage()._cdata for weight in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


class _FusedAttention(torch.autograd.Function):
    """Keeps what fused kernels keep: queries, keys, values, the output, and one number for each query."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(value) for value in ctx.saved_tensors[:3])


@contextmanager
def fused_attention() -> Iterator[None]:
    """Attention as the fused kernels of GPUs run it, of shapes without numbers."""
    own = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = lambda query, key, value, *_, **__: _FusedAttention.apply(
        query, key, value
    )
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own


class MainMemory:
    """Counts the bytes that ``activation_offload`` keeps in main memory, where tensors have no numbers.

    Args:
        networks: whose weights stay where they are.
    """

    def __init__(self, *networks: nn.Module):
        self.live = self.peak = 0
        self._weights = {weight.untyped_storage()._cdata for network in networks for weight in network.parameters()}

    def offload(self) -> AbstractContextManager[Any]:
        """A context in which what autograd saves is moved, as :func:`.offload_activations` does on a device."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, saved: torch.Tensor) -> "torch.Tensor | _Moved":
        if not saved.is_meta or stays_on_device(saved) or saved.untyped_storage()._cdata in self._weights:
            return saved
        moved = _Moved(saved)
        self.live += saved.nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(moved, self._forget, saved.nbytes)
        return moved

    @staticmethod
    def _unpack(packed: "torch.Tensor | _Moved") -> torch.Tensor:
        return packed if isinstance(packed, torch.Tensor) else packed.on_device()

    def _forget(self, size: int) -> None:
        self.live -= size


class _Moved:
    """A tensor in main memory: its layout is all there is of it."""

    def __init__(self, tensor: torch.Tensor):
        self._layout = tensor.shape, tensor.stride(), tensor.dtype

    def on_device(self) -> torch.Tensor:
        shape, stride, dtype = self._layout
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")

"""What torch has but does not offer in public. Every use of it stands here, where a test tells when torch changes it.

There is no public way to give a module's products to oneDNN, nor to undo ``nn.Module.compile``.
"""

import torch
from torch import nn

_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight")
# what tells whether this processor has the instructions; without them oneDNN takes no such weight
_HAS_INSTRUCTIONS = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}


def has_onednn_products(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this torch has oneDNN and its operators for linear layers, those that torch's compiler emits.

    Args:
        dtype: of the weights; those of 16 bits need a processor that computes with them.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS):
        return False
    return dtype not in _HAS_INSTRUCTIONS or getattr(torch.ops.mkldnn, _HAS_INSTRUCTIONS[dtype])()


def packed_weight(weight: torch.Tensor) -> torch.Tensor:
    """A weight ``(out, in)`` in the order in which oneDNN reads it; only the functions below can read it, too."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)


def packed_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``x W^T + b``: ``(..., in)`` to ``(..., out)`` float32, W being packed."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def packed_linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """``gelu(x W^T + b)``, the exact GELU: ``(..., in)`` to ``(..., out)`` float32, W being packed."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")


def packed_linear_times(
    x: torch.Tensor, factor: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """``(x W^T + b) * factor``, the two ``(..., in)`` and ``(..., out)``, W being packed."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, factor, weight, bias, "mul")


def undo_compile(module: nn.Module) -> None:
    """Make a module run as it did before ``module.compile()``, and forget what was compiled."""
    module._compiled_call_impl = None
    torch.compiler.reset()

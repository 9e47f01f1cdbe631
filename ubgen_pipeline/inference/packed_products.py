"""The transformer blocks' matrix products on a CPU: by oneDNN, each weight laid out for it once.

torch gives products in float32 to MKL, which is much slower than oneDNN on processors of AMD. The operators are those
that torch's own compiler emits for 16 bits.
"""

import torch
from diffusers.models.activations import GEGLU
from torch import nn

from .library_internals import (
    has_onednn_products,
    packed_linear,
    packed_linear_gelu,
    packed_linear_times,
    packed_weight,
)


def pack_products(model: nn.Module) -> int:
    """Replace the float32 linear layers of ``model``'s attention blocks in place; it can no longer be trained.

    The results round differently, by about as much as before: ``benchmarks.generation_speed`` measures it.

    Args:
        model: on a CPU, its LoRA fused or none; not compiled.

    Returns:
        how many layers were replaced; none where this torch was built without oneDNN.
    """
    if not has_onednn_products():
        return 0
    blocks = [module for name, module in model.named_modules() if name.split(".")[-1] == "attentions"]
    return sum(map(_pack_inside, blocks))


def _pack_inside(parent: nn.Module) -> int:
    count = 0
    for name, child in list(parent.named_children()):
        if type(child) is GEGLU and _is_plain(child.proj):
            setattr(parent, name, PackedGEGLU(child))
            count += 1
        elif isinstance(child, nn.Linear) and _is_plain(child):
            setattr(parent, name, PackedLinear(child))
            count += 1
        else:
            count += _pack_inside(child)
    return count


class PackedLinear(nn.Module):
    """``x W^T + b`` of a linear layer: ``(..., in)`` to ``(..., out)`` float32."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self._weight, self._bias = packed_weight(linear.weight), linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return packed_linear(x, self._weight, self._bias)


class PackedGEGLU(nn.Module):
    """``(x V^T + c) * gelu(x W^T + b)`` (Shazeer 2020), ``(..., in)`` to ``(..., out)`` float32.

    Two products, the second multiplied by the first while it is written.
    """

    def __init__(self, layer: GEGLU):
        super().__init__()
        weights, biases = layer.proj.weight.chunk(2), layer.proj.bias.chunk(2)
        self._value, self._gate = (packed_weight(weight) for weight in weights)
        self._value_bias, self._gate_bias = (bias.detach().clone() for bias in biases)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = packed_linear_gelu(x, self._gate, self._gate_bias)
        return packed_linear_times(x, gate, self._value, self._value_bias)


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.weight.dtype == torch.float32 and module.weight.device.type == "cpu"

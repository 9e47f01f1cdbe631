"""The transformer blocks' matrix products on a CPU: by oneDNN, each weight laid out for it once.

torch gives products in float32 to MKL, which on AMD's processors has less than half of the rate that oneDNN has, on
Intel's about the same. The operators are those that torch's own compiler emits for 16 bits.
"""

import torch
from diffusers.models.activations import GEGLU
from torch import nn


def pack_products(model: nn.Module) -> int:
    """Replace the float32 linear layers of ``model``'s attention blocks in place; it can no longer be trained.

    What rounding does to the results stays about the same: see ``benchmarks/generation_speed.py``.

    Args:
        model: on a CPU, its LoRA fused or none; not compiled.

    Returns:
        how many layers were replaced; none where this torch was built without oneDNN.
    """
    if not _has_onednn():
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
        self._weight, self._bias = _packed(linear.weight), linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")


class PackedGEGLU(nn.Module):
    """``(x V^T + c) * gelu(x W^T + b)`` (Shazeer 2020), ``(..., in)`` to ``(..., out)`` float32.

    Two products, the second multiplied by the first while it is written.
    """

    def __init__(self, layer: GEGLU):
        super().__init__()
        weights, biases = layer.proj.weight.chunk(2), layer.proj.bias.chunk(2)
        self._value, self._gate = (_packed(weight) for weight in weights)
        self._value_bias, self._gate_bias = (bias.detach().clone() for bias in biases)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.ops.mkldnn._linear_pointwise(x, self._gate, self._gate_bias, "gelu", [], "none")
        return torch.ops.mkldnn._linear_pointwise.binary(x, gate, self._value, self._value_bias, "mul")


def _packed(weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.weight.dtype == torch.float32 and module.weight.device.type == "cpu"


def _has_onednn() -> bool:
    operators = ("_linear_pointwise", "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in operators)

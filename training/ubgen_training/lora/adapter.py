"""A LoRA on a denoiser: attached, trained in float32 on weights that may be 16-bit, and switched off for a while.

All functions take the denoiser's network (diffusers' ``UNet2DConditionModel`` or any other model of it that takes
adapters), in which every LoRA layer is one of peft's.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..checkpoints.library_internals import set_adapters_disabled

TRAIN_METHODS = ("lora", "full")
# projections of attention, as diffusers names them
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on the denoiser; the defaults are the paper's (Table 5).

    ``alpha`` None means ``rank``, ``target_modules`` None those of the model's family.
    """

    rank: int = 128
    alpha: float | None = None
    target_modules: tuple[str, ...] | None = None


def lora_targets(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """What a setting names; none is what the model's family says."""
    return tuple(names) if names else None


def add_lora(network: Any, lora: LoraSettings, seed: int, family_targets: Sequence[str] = ATTENTION) -> None:
    """Freeze ``network`` and add a LoRA to it, whose weights alone are trained, in float32.

    Args:
        seed: of its initial weights; torch's own random state stays as it is.
        family_targets: the layers that get one where ``lora`` names none, a family's ``lora_targets``.

    Raises:
        ValueError: a rank below 1, or target modules that the network does not have.
    """
    if lora.rank < 1:
        raise ValueError(f"lora_rank is {lora.rank}; choose 1 or more.")
    config = LoraConfig(
        r=lora.rank,
        # peft takes a fraction, too, whatever its annotation says
        lora_alpha=lora.rank if lora.alpha is None else lora.alpha,  # pyright: ignore[reportArgumentType]
        init_lora_weights="gaussian",
        target_modules=list(lora.target_modules or family_targets),
    )
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hasattr(network, "add_adapter"):
            network.add_adapter(config)
        else:
            # PixArt's transformer has no adapters of diffusers' own
            inject_adapter_in_model(config, network)
    multiply_in_activation_dtype(network)
    train_in_float32(network)


def train_all_weights(network: nn.Module) -> None:
    """Have every weight of ``network`` trained, in float32."""
    train_in_float32(network.requires_grad_(True))


def train_in_float32(network: nn.Module) -> None:
    """Cast the weights that are trained: in 16 bits, updates at these learning rates would vanish."""
    cast_training_params(network, torch.float32)  # pyright: ignore[reportArgumentType]: it takes any module


def check_train_method(train_method: str, methods: tuple[str, ...] = TRAIN_METHODS) -> None:
    """Raise ``ValueError`` unless it is one of ``methods``."""
    if train_method not in methods:
        raise ValueError(f"train_method is {train_method!r}; choose one of {', '.join(methods)}.")


def check_lora_alpha(alpha: float | None) -> None:
    """Raise ``ValueError`` for an alpha with which a LoRA has no effect, or the opposite one."""
    if alpha is not None and not alpha > 0:
        raise ValueError(f"lora_alpha is {alpha}; choose a number above 0, or leave it out for the LoRA's rank.")


def lora_layers(network: nn.Module) -> dict[str, Any]:
    """peft's layers with a LoRA, by their names in ``network``.

    Each is an ``nn.Module`` and a ``LoraLayer``, which Python's annotations cannot say of one object.
    """
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, LoraLayer)}


def multiply_in_activation_dtype(network: nn.Module) -> None:
    """Let each LoRA matrix, kept in float32, multiply in the dtype of its input; its gradient is float32.

    peft casts the input to float32 instead, so that without autocast two of three products of a 16-bit denoiser would
    run at the rate of float32.
    """
    for layer in lora_layers(network).values():
        layer.cast_input_dtype_enabled = False
        for matrices in (layer.lora_A, layer.lora_B):
            for adapter, matrix in matrices.items():
                if type(matrix) is nn.Linear:
                    matrices[adapter] = _CastLinear.of(matrix)


class _CastLinear(nn.Linear):
    """A linear layer whose weights are cast to the dtype of its input."""

    @classmethod
    def of(cls, linear: nn.Linear) -> "_CastLinear":
        """The same layer, with the very parameters of ``linear``."""
        # its own weights are replaced at once, so they get no memory
        cast = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        cast.weight, cast.bias = linear.weight, linear.bias
        return cast.train(linear.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return nn.functional.linear(input, self.weight.to(input.dtype), bias)


@contextmanager
def adapters_disabled(network: nn.Module) -> Iterator[None]:
    """``network`` without its adapters inside the ``with``: the model before training, no second copy in memory.

    It may be used in the middle of a forward pass, whose graph holds the adapters' weights.

    Raises:
        ValueError: there is no adapter in ``network``.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, BaseTunerLayer)]
    if not layers:
        raise ValueError("the module has no adapter to disable, so there is no reference model; add its LoRA first.")
    before = [layer.disable_adapters for layer in layers]
    set_adapters_disabled(layers, [True] * len(layers))
    try:
        yield
    finally:
        set_adapters_disabled(layers, before)


@contextmanager
def weights_exchanged(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """``network`` with ``weights``, by name, in the place of all that it trains inside the ``with``.

    It may be used in the middle of a forward pass: the graph, which holds the trained weights, does not notice. Call
    ``network`` without gradient inside.
    """
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    own = {name: weight.data for name, weight in trained.items()}
    try:
        for name, weight in trained.items():
            # writing into the weight itself would make the graph's backward pass fail
            weight.data = weights[name].to(own[name])
        yield
    finally:
        for name, weight in trained.items():
            weight.data = own[name]

"""The denoiser as the sampling steps without gradient call it: nine tenths of a training step's denoiser calls.

It gives the trained denoiser's predictions up to rounding, from a second one that shares all frozen weights with it:

- in float32 the LoRA is fused into a copy of the weights it touches, written anew from the frozen ones before every
  rollout, so that rounding never adds up;
- in 16 bits fusing would lose small updates to rounding. The LoRA stays beside the weights, and its matrices are cast
  once a rollout instead of in every product;
- compiled on request, for one batch size; others run uncompiled;
- uncompiled on a CPU, the transformer blocks' products are oneDNN's, which lays out a copy of their weights.

Shapes: N denoiser rows (2B under guidance), C x H x W latents.
"""

import copy
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.models.activations import GEGLU
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.family import Family
from ubgen_pipeline.inference.packed_products import pack_products
from ubgen_pipeline.inference.prepared_pipeline import compile_cache_folder

from ..lora.adapter import lora_layers


class RolloutDenoiser:
    """A denoiser without gradient for :func:`ubgen_pipeline.latent_denoising.denoising_steps`.

    Call :meth:`refresh` before every rollout.

    Args:
        pipeline: whose denoiser is trained, with its LoRA if it has one.
        compiled_rows: N for which it is compiled; None compiles nothing. Where compiling fails, a warning says what
            that costs, and it goes on uncompiled.
    """

    def __init__(self, pipeline: Family, compiled_rows: int | None = None):
        self._pipeline, self.network = pipeline, pipeline.denoiser_network
        self.compiled_rows = compiled_rows
        self._twin: ModelMixin | None = None
        self._shared: list[torch.Tensor] = []
        self._compiled: Callable | None = None

    def refresh(self) -> bool:
        """Take over the LoRA's weights as they are now; False where the denoiser itself must be called.

        That is so in float32 under autocast, which would cast the fused weights to 16 bits.
        """
        weights = [*self.network.parameters(), *self.network.buffers()]
        device = weights[0].device.type
        if not _is_16_bit(self.network) and torch.is_autocast_enabled(device):
            return False
        # a launcher may replace the weights after the first rollout
        if self._twin is None or [id(weight) for weight in weights] != [id(weight) for weight in self._shared]:
            if device == "cuda":
                put_channels_last(self.network)
            self._twin, self._shared = twin_network(self.network), weights
            self._compiled = self._compile(self._twin) if self.compiled_rows else None
        copy_lora(self.network, self._twin)
        if self.compiled_rows is None and device == "cpu" and _can_pack(self.network):
            # skips layers that are packed already, so the first time it packs all, later those that were just written
            pack_products(self._twin)
        return True

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The prediction ``(N, C, H, W)`` of ``latents (N, C, H, W)`` with N rows, in the latents' dtype."""
        assert self._twin is not None
        call = self._twin if self._compiled is None or len(latents) != self.compiled_rows else self._compiled_or_plain
        dtype = next(self._twin.parameters()).dtype
        # 16-bit weights need no autocast, which would widen every normalisation to float32
        with torch.autocast(latents.device.type, enabled=False):
            read = conditioning.floats(lambda value: value.to(dtype))
            prediction = self._pipeline.predict(latents.to(dtype), timestep, read, network=call)
        return prediction.to(latents.dtype)

    def _compile(self, twin: ModelMixin) -> Callable:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compile_cache_folder()))
        return torch.compile(twin, dynamic=False)

    def _compiled_or_plain(self, *inputs: Any, **named: Any) -> Any:
        assert self._compiled is not None and self._twin is not None
        try:
            return self._compiled(*inputs, **named)
        except torch.OutOfMemoryError:
            raise
        # torch.compile, the C++ compiler and Triton raise errors of many types
        except Exception as error:
            plain = self._twin(*inputs, **named)
            # this call would have raised if the inputs, and not the compiler, were at fault
            self._compiled = None
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(
                f"torch.compile does not work here ({reason}); sampling goes on without it, which takes longer by what"
                " results/training_speed.md says. Give compile_rollout off to silence this.",
                stacklevel=2,
            )
            return plain


def twin_network(network: ModelMixin) -> ModelMixin:
    """A network without gradient on the same frozen weights; with what :func:`copy_lora` fills in, it answers as that.

    In float32 its layers with a LoRA are plain ones with weights of their own; in 16 bits they are such layers whose
    LoRA is in 16 bits. A ``network`` without LoRA gives one that shares everything, trained weights included.
    """
    own = {id(weight) for layer in lora_layers(network).values() for weight in _lora_weights(layer)}
    memo = {id(w): w for w in (*network.parameters(), *network.buffers()) if id(w) not in own}
    twin = copy.deepcopy(network, memo)
    for name, layer in lora_layers(twin).items():
        if _is_16_bit(network):
            for weight in _lora_weights(layer):
                weight.requires_grad_(False)
                weight.data = weight.data.to(network.dtype)
        else:
            _replace(twin, name, _own_weight(layer.get_base_layer()))
    return twin


@torch.no_grad()
def copy_lora(network: ModelMixin, twin: ModelMixin) -> None:
    """Write the LoRA of ``network`` as it is now into its twin of :func:`twin_network`."""
    for name, layer in lora_layers(network).items():
        other: Any = twin.get_submodule(name)
        if isinstance(other, BaseTunerLayer):
            for source, target in zip(_lora_weights(layer), _lora_weights(other), strict=True):
                target.copy_(source)
            continue
        base = layer.get_base_layer()
        # a packed layer has no weight to write into; where one has, compiled code goes on reading it
        fused = other if hasattr(other, "weight") else _own_weight(base)
        fused.weight.copy_(base.weight)
        for adapter in layer.active_adapters:
            fused.weight.add_(layer.get_delta_weight(adapter))
        if fused is not other:
            _replace(twin, name, fused)


def put_channels_last(network: nn.Module) -> None:
    """Lay the frozen convolutions' weights out as a GPU's tensor cores read them; no value changes."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last)


def _own_weight(layer: nn.Module) -> Any:
    """The same layer with a weight of its own; its bias is shared."""
    shared = {id(parameter): parameter for name, parameter in layer.named_parameters() if name != "weight"}
    return copy.deepcopy(layer, shared).requires_grad_(False)


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, layer)


def _can_pack(network: nn.Module) -> bool:
    """Whether all weights that are packed once are frozen, and those with a LoRA are packed layer by layer."""
    names = lora_layers(network)
    in_pairs = any(isinstance(network.get_submodule(name.rpartition(".")[0]), GEGLU) for name in names)
    return bool(names) and not in_pairs and not _is_16_bit(network)


def _lora_weights(layer: Any) -> list[nn.Parameter]:
    return [weight for name, weight in layer.named_parameters() if "lora_" in name]


def _is_16_bit(network: nn.Module) -> bool:
    return next(network.parameters()).dtype in (torch.float16, torch.bfloat16)

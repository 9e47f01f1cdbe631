"""Operations of an image, counted by running a model's own ``predict`` and ``decode`` on torch's ``meta`` device.

There a call has shapes and computes nothing.

Shapes: C x h x w latents.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import FlopCounterMode

from ..conditioning import Conditioning
from ..deep_features import DeepFeatureDenoiser
from ..family import Family
from ..models.loading import set_scheduler

# counted calls of networks, by all that their number depends on: a process may draw many datasets with one model
_COUNTED: dict[Any, int] = {}
_COPIES: dict[Any, torch.nn.Module] = {}


class ImageOperations:
    """Counted operations of a model, two for each multiply-add; nothing is computed.

    Args:
        pipeline: with denoiser and VAE on the ``meta`` device.
        text: one prompt's conditioning there.
        shape: (C, h, w) of the latents.
    """

    def __init__(self, pipeline: Family, text: Conditioning, shape: tuple[int, int, int]):
        self.pipeline, self._text, self.shape = pipeline, text, shape
        self._latents = torch.zeros(1, *shape, device="meta", dtype=pipeline.denoiser_network.dtype)

    def of_calls(
        self,
        num_steps: int,
        guidance_scale: float,
        *,
        scheduler: str | None = None,
        shortcuts: Mapping[str, Any] | None = None,
    ) -> float:
        """Of one image; its text is left out, encoded once a class.

        Args:
            num_steps: that the schedule is asked for.
            guidance_scale: classifier-free where it is above 1 and the model has it.
            scheduler: in place of the pipeline's.
            shortcuts: of a preset.
        """
        shortcuts = shortcuts or {}
        num_calls = self._num_calls(num_steps, scheduler)
        text, scale = self.pipeline.with_guidance(self._text, guidance_scale)
        num_guided = round(num_calls * shortcuts.get("guidance_until", 1.0)) if scale > 1 else 0
        every = shortcuts.get("deep_features_every", 1)
        whole, outer = self._passes(text, every)
        total = self._once("decode", self.pipeline.vae, (), lambda: self.pipeline.decode(self._latents))
        for call in range(num_calls):
            # the change of the batch at the end of guidance makes a whole pass too
            is_whole = call % every == 0 or call == num_guided
            total += (whole if is_whole else outer) * (2 if call < num_guided else 1)
        return total

    def _num_calls(self, num_steps: int, scheduler: str | None) -> int:
        """Steps that the schedule has, which may be more than were asked for."""
        kind: Any = type(self.pipeline)
        walker = copy.copy(self.pipeline)
        # schedulers read the numbers of their timesteps
        walker.__class__ = type(kind.__name__, (kind,), {"_execution_device": torch.device("cpu")})
        walker.scheduler = copy.deepcopy(walker.scheduler)
        if scheduler is not None:
            set_scheduler(walker, scheduler)
        return len(walker.timesteps(num_steps, self.shape))

    def _passes(self, text: Conditioning, every: int) -> tuple[float, float]:
        """Of a call of the whole denoiser, and of one of its outer layers only."""
        timestep = torch.zeros((), device="meta")
        if every == 1:
            predict = partial(self.pipeline.predict, self._latents, timestep, text)
            whole = self._once("predict", self.pipeline.denoiser_network, dict(text.tensors), predict)
            return whole, whole
        network = DeepFeatureDenoiser(self.pipeline.denoiser_network, every)
        whole, outer = (
            count_operations(lambda: self.pipeline.predict(self._latents, timestep, text, network=network))
            for _ in range(2)
        )
        return whole, outer

    def _once(self, name: str, network: torch.nn.Module, inputs: Any, call: Callable[[], object]) -> int:
        """Operations of that call, counted if no call of an equal network with equal shapes has been."""
        pipeline: Any = self.pipeline
        tensors, layout = tree_flatten((self._latents, inputs))
        shapes = tuple((value.shape, value.dtype, None if value.is_meta else str(value.tolist())) for value in tensors)
        key = name, type(pipeline), _described(pipeline.config), _structure(network), shapes, str(layout)
        if key not in _COUNTED:
            _COUNTED[key] = count_operations(call)
        return _COUNTED[key]


def _structure(network: Any) -> tuple[Any, ...]:
    """What a network's operations depend on beside its inputs: its configuration, parts and weights' shapes."""
    parts = tuple((name, type(part)) for name, part in network.named_modules())
    processors = tuple(type(processor) for processor in getattr(network, "attn_processors", {}).values())
    weights = tuple((name, weight.shape, weight.dtype) for name, weight in network.named_parameters())
    return _described(network.config), parts, processors, weights


def _described(config: Mapping[str, Any]) -> str:
    """A configuration without the names of folders."""
    return str(sorted((name, str(value)) for name, value in config.items() if not name.startswith("_")))


def copy_on_meta(pipeline: Family) -> Family:
    """A pipeline that shares all but denoiser and VAE, which are copies without numbers; it can only be counted."""
    walker = copy.copy(pipeline)
    for name, network in pipeline.components.items():
        if isinstance(network, torch.nn.Module) and network in (pipeline.denoiser_network, pipeline.vae):
            setattr(walker, name, _without_numbers(network))
    return walker


def _without_numbers(network: torch.nn.Module) -> torch.nn.Module:
    """A copy on the ``meta`` device; equal networks share one."""
    key = _structure(network)
    if key not in _COPIES:
        # copying takes these in place of the tensors with numbers
        without: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in network.buffers()}
        for weight in network.parameters():
            without[id(weight)] = torch.nn.Parameter(weight.detach().to("meta"), requires_grad=False)
        _COPIES[key] = copy.deepcopy(network, without)
    return _COPIES[key]


class WithoutNumbers(TorchDispatchMode):
    """Lets tensors with numbers take part beside those of the ``meta`` device: what such an operation gives has none.

    Operations on tensors with numbers alone are computed, such as a prompt's length from its mask.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        values, layout = tree_flatten((args, kwargs or {}))
        if any(isinstance(value, torch.Tensor) and value.is_meta for value in values):
            values = [value.to("meta") if isinstance(value, torch.Tensor) else value for value in values]
            args, kwargs = tree_unflatten(values, layout)
        return func(*args, **(kwargs or {}))


def count_operations(call: Callable[[], object]) -> int:
    """Operations of the matrix products, convolutions and attention in a call, two for each multiply-add.

    PyTorch's counter knows the attention kernels of GPUs, and attention that is computed as two matrix products, which
    is how it runs on the meta device. The fused kernel of CPUs it counts as nothing, so its formula is given here.
    """
    formulas = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with counter, WithoutNumbers(), torch.no_grad(), patch.object(torch, "autocast", _autocast):
        call()
    return counter.get_total_flops()


def _autocast(device_type: str, *arguments: Any, **settings: Any) -> Any:
    """``torch.autocast``, which knows no ``meta`` device, not even to be switched off there."""
    return nullcontext() if device_type == "meta" else torch.amp.autocast(device_type, *arguments, **settings)


def _attention_operations(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Of the products of queries and keys, and of weights and values, from shapes ``(B, heads, tokens, width)``."""
    batch, heads, num_queries, width = query
    return 2 * batch * heads * num_queries * key[-2] * (width + value[-1])

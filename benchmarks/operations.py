"""Operations of an image of any family's model, counted by running the family's own ``predict`` and ``decode`` on
torch's ``meta`` device, where a call has shapes and computes nothing.

Shapes: C x h x w latents.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.real_size_families import REAL_SIZE_MODELS, real_size_model
from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.deep_features import DeepFeatureDenoiser
from ubgen_pipeline.family import Family, check_effects
from ubgen_pipeline.inference.presets import PRESETS
from ubgen_pipeline.models.families import family_of
from ubgen_pipeline.models.loading import load_pipeline, set_scheduler


class Operations:
    """Counted operations of a model, two for each multiply-add; nothing is computed.

    Args:
        model: a key of ``REAL_SIZE_MODELS``, ``mini``, or a folder or Hub id, whose weights are then loaded once.
        size: side of the images in pixels; None takes the model's own.

    Raises:
        ValueError: no such model, or a size that it cannot draw.
    """

    def __init__(self, model: str, size: int | None = None):
        self.pipeline, self._text = model_on_meta(model)
        if family_of(type(self.pipeline).__name__) == "sd":
            # as the paper draws with Stable Diffusion
            set_scheduler(self.pipeline, "pndm")
        own = REAL_SIZE_MODELS[model].size if model in REAL_SIZE_MODELS else None
        self.shape = self.pipeline.latent_shape(size or own, size or own)
        self._latents = torch.zeros(1, *self.shape, device="meta")

    def of_an_image(
        self, num_steps: int | None = None, guidance_scale: float | None = None, preset: str | None = None
    ) -> float:
        """Of one image; its text is left out, encoded once a class. None takes the model's own settings.

        Raises:
            ValueError: guidance or a preset that has no effect on the model.
        """
        pipeline, shortcuts = self.pipeline, dict(PRESETS[preset].shortcuts) if preset else {}
        check_effects(pipeline, guidance_scale=guidance_scale, **shortcuts)
        settings: dict[str, Any] = {
            "num_inference_steps": num_steps or pipeline.default_num_inference_steps,
            "guidance_scale": pipeline.default_guidance_scale if guidance_scale is None else guidance_scale,
            **(PRESETS[preset].settings if preset else {}),
        }
        num_calls = self._num_calls(settings["num_inference_steps"], settings.get("scheduler"))
        text, scale = pipeline.with_guidance(self._text, settings["guidance_scale"])
        num_guided = round(num_calls * shortcuts.get("guidance_until", 1.0)) if scale > 1 else 0
        every = shortcuts.get("deep_features_every", 1)
        whole, outer = self._passes(text, every)
        total = count_operations(lambda: pipeline.decode(self._latents))
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
            whole = count_operations(lambda: self.pipeline.predict(self._latents, timestep, text))
            return whole, whole
        network, features = self.pipeline.denoiser_network, text["encoder_hidden_states"]
        denoiser = DeepFeatureDenoiser(network, every)
        whole, outer = (count_operations(lambda: denoiser(self._latents, timestep, features)) for _ in range(2))
        return whole, outer


def model_on_meta(model: str, dtype: torch.dtype = torch.float32) -> tuple[Family, Conditioning]:
    """The model's pipeline with denoiser and VAE on the ``meta`` device, and one prompt's conditioning there.

    Args:
        model: as of :class:`Operations`.
        dtype: of the weights and of the conditioning.

    Raises:
        ValueError: no such model.
    """
    if model in REAL_SIZE_MODELS:
        real = real_size_model(model)
        with torch.device("meta"):
            pipeline = real.pipeline(dtype)
        return pipeline, real.conditioning(1, dtype)
    pipeline = load_pipeline(model, torch_dtype=dtype)
    with torch.no_grad():
        # the numbers of masks are read, to find the lengths of prompts
        text = pipeline.batch(pipeline.encode(["a photo"])).floats(lambda value: value.to("meta"))
    # what is left on the CPU does not take part
    pipeline.register_modules(**dict.fromkeys(pipeline.text_encoder_parts))
    for network in (pipeline.denoiser_network, pipeline.vae):
        network.to("meta")
    return pipeline, text


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

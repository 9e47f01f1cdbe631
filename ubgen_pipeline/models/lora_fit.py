"""Whether a LoRA that was read can be added to a pipeline: every part, layer, shape and number of it is looked at."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from .lora_weights import LoraWeights, split_side
from .loras import ADAPTER_SETTINGS, PEFT_PREFIX


def lora_damage(weights: LoraWeights) -> str | None:
    """Which of its numbers are none; None where all are."""
    for part, own in weights.parts.items():
        # a file has its weights in any order
        for key, value in sorted(own.items()):
            if not value.is_floating_point():
                return f"{part}.{key} holds {value.dtype}, and no real numbers"
            if not value.numel():
                return f"{part}.{key} is empty, {tuple(value.shape)}"
            # numbers of 8 bits have no test of their own
            if not value.float().isfinite().all():
                return f"{part}.{key} holds NaN or infinity"
    for (part, name), alpha in (weights.alphas or {}).items():
        if not math.isfinite(alpha):
            return f"{part}.{name}.alpha is {alpha}"
    return None


def lora_misfit(pipeline: Any, weights: LoraWeights) -> str | None:
    """Why a LoRA cannot be added to the pipeline, to follow "which does not fit the model: "; None where it can."""
    networks = {pipeline.denoiser_part: pipeline.denoiser_network, **pipeline.text_networks}
    if not (weights.unread or weights.parts):
        return "it holds no weights"
    if weights.unread and weights.unread[0].startswith(PEFT_PREFIX):
        return f"{weights.unread[0]!r} is peft's name, and {ADAPTER_SETTINGS}, which says its alpha, is not beside it"
    if weights.unread:
        return f"{weights.unread[0]!r} belongs to no part of it, or to one for which diffusers loads no LoRA"
    for part, own in weights.parts.items():
        if not _takes_loras(pipeline, part):
            return f"it changes the {part}, and diffusers loads LoRAs for {_parts_with_loras(pipeline)} alone"
        modules = dict(networks[part].named_modules())
        layers: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in own.items():
            split = split_side(key)
            if split is None:
                return f"{part}.{key} is no weight of a LoRA"
            layers.setdefault(split[0], {})[split[1] + split[2].removeprefix(".weight")] = value
        for name, sides in layers.items():
            module = lora_layer(modules, name)
            weight = getattr(module, "weight", None)
            if weight is None:
                return f"it has no {part}.{name}"
            # weights of 4 bits are packed, and their own shape says nothing
            base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
            wide = (base.out_features, base.in_features) if isinstance(base, torch.nn.Linear) else weight.shape
            if misfit := _side_misfit(sides, tuple(wide)):
                return f"{part}.{name}.{misfit}"
    return None


def _side_misfit(sides: Mapping[str, torch.Tensor], wide: tuple[int, ...]) -> str | None:
    """What of one layer's weights does not fit a layer whose weights are ``wide``; None where all does."""

    def is_not(side: str) -> str:
        return f"{side}.weight is {tuple(sides[side].shape)} beside a weight of {wide}"

    for down, up, axis in (("lora_A", "lora_B", 1), ("hada_w1_b", "hada_w1_a", 1), ("hada_w2_b", "hada_w2_a", 1)):
        if (down in sides) != (up in sides):
            return f"{up if down in sides else down} is missing"
        if down not in sides:
            continue
        taken, made = sides[down], sides[up]
        # a LoHa's factors are matrices; so may be those of convolutions of one pixel, and the other way round
        if math.prod(taken.shape[1:]) != math.prod(wide[1:]):
            return is_not(down)
        if made.shape[0] != wide[0]:
            return is_not(up)
        if made.shape[axis] != taken.shape[0]:
            return f"{up}.weight is {tuple(made.shape)} beside {down} of {tuple(taken.shape)}"
    magnitude = sides.get("lora_magnitude_vector")
    if magnitude is not None and magnitude.numel() != wide[0]:
        return is_not("lora_magnitude_vector")
    return None


def lora_layer(modules: Mapping[str, Any], name: str) -> Any:
    """The layer of that name; transformers dropped a level from its text encoder, as diffusers does from names."""
    return modules.get(name) or modules.get(name.removeprefix("text_model."))


def _takes_loras(pipeline: Any, part: str) -> bool:
    """Whether diffusers switches, scales and fuses LoRAs of that part: of the denoiser, and of CLIP's text encoders
    where the family's loader knows them."""
    if part == pipeline.denoiser_part:
        return True
    is_clip = pipeline.text_networks[part].config.model_type.startswith("clip_text")
    return is_clip and hasattr(pipeline, "load_lora_into_text_encoder")


def _parts_with_loras(pipeline: Any) -> str:
    return " and ".join(
        part for part in (pipeline.denoiser_part, *pipeline.text_networks) if _takes_loras(pipeline, part)
    )

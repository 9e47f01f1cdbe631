"""A LoRA's file, read for a pipeline: its weights by part and layer in peft's names, and what scales each product."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.state_dict_utils import (
    DIFFUSERS_OLD_TO_PEFT,
    convert_state_dict,
    convert_unet_state_dict_to_peft,
)
from safetensors import safe_open
from safetensors.torch import load_file

from .families import family_of
from .loras import LORA_FILE, PEFT_PREFIX
from .named_layers import magnitudes, read_named_layers
from .sd3_layers import sd3_layers

_SIDES = re.compile(
    r"(?P<module>.+)\.(?P<side>lora_A|lora_B|lora_magnitude_vector|hada_w[12]_[ab]|lokr_w[12](_[ab])?|lokr_t2)"
    r"(\.default)?(?P<ending>\.weight|\.bias)?"
)
_KOHYA = re.compile(r"(?P<layer>lora_(unet|te|te1|te2)_[^.]+)\.(?P<rest>.+)")
# diffusers' own settings, in its own files
_METADATA = "lora_adapter_metadata"
# of any layout: what the sides of a layer's pair are called at their end
_PAIR = re.compile(r"(?P<layer>.+?)[._](?:lora[._])?(?P<side>A|B|up|down)(?:\.default)?\.weight")
# what kohya's layout calls the sides of a LoHa is what peft calls them
LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


@dataclass(frozen=True)
class LoraWeights:
    """What a file holds.

    Attributes:
        parts: of each part of the pipeline its weights ``<module>.lora_A.weight (r, in)``, ``lora_B (out, r)``,
            ``lora_magnitude_vector (out,)`` or those of a LoHa.
        alphas: of each part and module the number over the rank that its product is multiplied by; None where
            settings of peft say so.
        settings: peft's, where the file is peft's own.
        is_injected: whether peft adds it, since diffusers' loader would drop some of it.
        unread: names of weights that belong to no part.
    """

    parts: Mapping[str, Mapping[str, torch.Tensor]]
    alphas: Mapping[tuple[str, str], float] | None = None
    settings: Mapping[str, Any] | None = None
    is_injected: bool = False
    unread: tuple[str, ...] = field(default=())


def split_side(key: str) -> tuple[str, str, str] | None:
    """``<module>.<side>.weight`` as (module, side, ending); None where it is none of an adapter's weights."""
    match = _SIDES.fullmatch(key)
    return None if match is None else (match["module"], match["side"], match["ending"] or ".weight")


def read_lora(pipeline: Any, file: Path, settings: Path | None) -> LoraWeights:
    """The weights in that file, converted by the pipeline's own loader from whichever layout it knows.

    Args:
        pipeline: of the family that it is for.
        file: safetensors.
        settings: peft's ``adapter_config.json`` that belongs to it.

    Raises:
        Exception: of many kinds, where the converters do not know the layout.
    """
    if settings is not None:
        return _read_peft(pipeline, file, json.loads(settings.read_text(encoding="utf-8")))
    raw = load_file(file)
    has_loader = pipeline.lora_file == LORA_FILE
    if pipeline.denoiser_part == "unet" and any(_KOHYA.fullmatch(key) for key in raw):
        return _read_kohya(pipeline, raw)
    if family_of(type(pipeline).__name__) == "sd3":
        raw = sd3_layers(raw, pipeline.transformer.config.num_layers)
    if has_loader and _METADATA not in _metadata(file):
        if (named := read_named_layers(pipeline, raw)) is not None:
            return LoraWeights(*named, is_injected=True)
        if not any(".lokr_" in key for key in raw):
            return _read_converted(pipeline, raw)
    state_dict, *others = pipeline.lora_state_dict(str(file), use_safetensors=True, return_lora_metadata=True)
    parts, unread = _by_part(pipeline, state_dict)
    return LoraWeights(parts, None if any(others) else _ranks(parts), unread=unread)


def _metadata(file: Path) -> Mapping[str, str]:
    with safe_open(file, framework="pt") as weights:
        return weights.metadata() or {}


def _read_converted(pipeline: Any, raw: Mapping[str, torch.Tensor]) -> LoraWeights:
    """A layout that diffusers converts for the family; it multiplies alphas into the weights, here in float32, since
    in 16 bits that rounds them."""
    wide = {key: value.float() if value.is_floating_point() else value for key, value in raw.items()}
    state_dict, *others = pipeline.lora_state_dict(dict(wide), return_lora_metadata=True)
    parts, unread = _by_part(pipeline, state_dict)
    if any(others):
        # alphas that its loader applies
        return LoraWeights(parts, unread=unread)
    return LoraWeights(parts, _ranks(parts), is_injected=True, unread=(*unread, *_dropped(pipeline, wide)))


def _dropped(pipeline: Any, raw: Mapping[str, torch.Tensor]) -> list[str]:
    """Names in the file that diffusers' converter leaves out, some without a word: each layer is given a number of its
    own to hold, and is looked for among what is made of them."""
    marked, marks = {}, {}
    for key, value in raw.items():
        pair = _PAIR.fullmatch(key)
        if pair is not None and pair["side"] in ("A", "down"):
            marked[key] = torch.ones_like(value)
        elif pair is None and key.endswith(".alpha"):
            # no scale: the rank, whatever it is called
            ranks = [len(raw[other]) for other in raw if other.startswith(key[:-5]) and re.search("down|_A", other)]
            marked[key] = torch.full_like(value, float(ranks[0])) if ranks else value
        else:
            marks[key] = float(len(marks) + 2)
            marked[key] = torch.full_like(value, marks[key])
    converted, *_ = pipeline.lora_state_dict(marked, return_lora_metadata=True)
    found = {number for value in converted.values() for number in value.unique().tolist()}
    return [key for key, number in marks.items() if number not in found]


def _ranks(parts: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[tuple[str, str], float]:
    """Alphas of products that are not scaled, or were when they were converted."""
    return {
        (part, name): float(value.shape[1])
        for part, own in parts.items()
        for name, side, ending, value in _sides(own)
        if side == "lora_B" and ending == ".weight"
    }


def _read_peft(pipeline: Any, file: Path, settings: dict[str, Any]) -> LoraWeights:
    """A folder of peft's: for the denoiser, or for a text encoder where only that has such modules."""
    weights = {key.removeprefix(PEFT_PREFIX): value for key, value in load_file(file).items()}
    modules = {split[0] for split in map(split_side, weights) if split is not None}
    networks = {pipeline.denoiser_part: pipeline.denoiser_network, **pipeline.text_networks}
    named = [
        part for part, item in networks.items() if modules and modules <= {name for name, _ in item.named_modules()}
    ]
    # two text encoders have the same names, and mostly not the same widths
    wide = [part for part in named if _is_as_wide(weights, networks[part])]
    for part in (*wide, *named):
        return LoraWeights({part: weights}, settings=settings, is_injected=True)
    return LoraWeights({pipeline.denoiser_part: weights}, settings=settings, is_injected=True)


def _is_as_wide(weights: Mapping[str, torch.Tensor], network: Any) -> bool:
    """Whether the first factors take what the layers of those names take."""
    modules = dict(network.named_modules())
    return all(
        value.shape[1] == modules[name].weight.shape[1]
        for name, side, _, value in _sides(weights)
        if side == "lora_A" and getattr(modules[name], "weight", None) is not None
    )


def _read_kohya(pipeline: Any, raw: Mapping[str, torch.Tensor]) -> LoraWeights:
    """kohya's layout for UNets, where every layer has an alpha; with the magnitudes of a DoRA, or a LoHa's factors."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    unread = []
    for key, value in raw.items():
        if match := _KOHYA.fullmatch(key):
            layers.setdefault(match["layer"], {})[match["rest"]] = value
        else:
            # of something else in the same file
            unread.append(key)
    # the loader's names of the layers: it is given stand-ins, which are known again by what they are
    marks = {layer: torch.empty(1, 1) for layer in layers}
    standing = {f"{layer}.lora_down.weight": mark for layer, mark in marks.items()}
    standing |= {f"{layer}.lora_up.weight": torch.empty(1, 1) for layer in layers}
    config = {"unet_config": pipeline.unet.config} if len(pipeline.text_encoder_parts) > 1 else {}
    converted, *_ = pipeline.lora_state_dict(dict(standing), return_lora_metadata=True, **config)
    names, _ = _by_part(pipeline, converted)
    places = {
        id(value): (part, name)
        for part, own in names.items()
        for name, side, _, value in _sides(own)
        if side == "lora_A"
    }
    parts: dict[str, dict[str, torch.Tensor]] = {}
    alphas = {}
    for layer, weights in layers.items():
        if id(marks[layer]) not in places:
            # of a text encoder that the model does not have
            unread.append(f"{layer}.{next(iter(weights))}")
            continue
        part, name = places[id(marks[layer])]
        alpha = weights.pop("alpha", None)
        if alpha is not None and alpha.numel() != 1:
            raise ValueError(f"{layer}.alpha has {alpha.numel()} numbers; it has one.")
        down = weights.get("lora_down.weight", weights.get("hada_w1_b"))
        if down is not None:
            alphas[part, name] = float(len(down)) if alpha is None else float(alpha)
        for rest, value in weights.items():
            side = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}.get(rest, rest)
            if rest == "dora_scale":
                side, value = "lora_magnitude_vector", magnitudes(layer, value)
            elif side == rest and rest not in LOHA:
                unread.append(f"{layer}.{rest}")
                continue
            parts.setdefault(part, {})[f"{name}.{side}"] = value
    return LoraWeights(parts, alphas, is_injected=True, unread=tuple(unread))


def _by_part(
    pipeline: Any, state_dict: Mapping[str, torch.Tensor]
) -> tuple[dict[str, dict[str, torch.Tensor]], tuple[str, ...]]:
    """Weights of each part in peft's names, and the names of those that belong to none."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    unread = []
    for key, value in state_dict.items():
        part, _, name = key.partition(".")
        if part in (pipeline.denoiser_part, *pipeline.text_networks):
            parts.setdefault(part, {})[name] = value
        else:
            unread.append(key)
    for part, own in parts.items():
        if all(split_side(key) for key in own):
            continue
        if part == "unet":
            parts[part] = convert_unet_state_dict_to_peft(own)
        elif part != pipeline.denoiser_part:
            # diffusers looks at some names to tell which of these it must do, and passes over the rest
            parts[part] = convert_state_dict(own, DIFFUSERS_OLD_TO_PEFT)
    return parts, tuple(unread)


def _sides(own: Mapping[str, torch.Tensor]) -> list[tuple[str, str, str, torch.Tensor]]:
    """(module, side, ending, weights) of all that are an adapter's."""
    return [(*split, value) for key, value in own.items() if (split := split_side(key)) is not None]

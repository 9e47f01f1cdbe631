"""LoRAs that name the layers of the model's own networks, as several trainers write them, read without a converter.

    transformer.transformer_blocks.0.attn.to_q.lora_A.weight      with dots, and .alpha beside it
    lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight    with _ in place of dots
    lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha            of the second text encoder

diffusers converts some of these per family, and leaves out alphas, or layers, of others without a word.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from .loras import PEFT_PREFIX

# as they are written -> peft's
_SIDES = {
    "lora_down.weight": "lora_A.weight",
    "lora.down.weight": "lora_A.weight",
    "lora_A.weight": "lora_A.weight",
    "lora_A.default.weight": "lora_A.weight",
    "lora_up.weight": "lora_B.weight",
    "lora.up.weight": "lora_B.weight",
    "lora_B.weight": "lora_B.weight",
    "lora_B.default.weight": "lora_B.weight",
    "lora_magnitude_vector": "lora_magnitude_vector",
    "lora_magnitude_vector.weight": "lora_magnitude_vector",
    # kohya's name of it
    "dora_scale": "lora_magnitude_vector",
    "alpha": "alpha",
}
_PREFIXES = ("diffusion_model.", "lora_transformer_", "lora_unet_")
_TEXT = re.compile(r"lora_te(\d?)_|(text_encoder(?:_\d)?)\.")

# of each part of the pipeline its weights in peft's names, and of each part and layer its alpha
NamedLayers = tuple[dict[str, dict[str, torch.Tensor]], dict[tuple[str, str], float]]


def are_named_layers(pipeline: Any, names: Iterable[str]) -> bool:
    """Whether all of these names of weights are those of the pipeline's layers."""
    layers = _layers_by_part(pipeline)
    return all(_place(pipeline, layers, name) is not None for name in names)


def read_named_layers(pipeline: Any, raw: Mapping[str, torch.Tensor]) -> NamedLayers | None:
    """The weights and alphas of a file all of whose names are those of the pipeline's layers; else None.

    Args:
        pipeline: of the family that it is for.
        raw: the file's tensors: ``(r, in)``, ``(out, r)``, magnitudes ``(out,)`` or ``(out, 1)``, and numbers.

    Raises:
        ValueError: magnitudes of a DoRA over the inputs.
    """
    layers = _layers_by_part(pipeline)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    alphas: dict[tuple[str, str], float] = {}
    for key, value in raw.items():
        place = _place(pipeline, layers, key)
        if place is None or (place[2] == "alpha" and value.numel() != 1):
            return None
        part, name, side = place
        if side == "alpha":
            alphas[part, name] = float(value)
            continue
        if key.endswith(".dora_scale"):
            value = magnitudes(key.removesuffix(".dora_scale"), value)
        parts.setdefault(part, {})[f"{name}.{side}"] = value
    for part, own in parts.items():
        for key, value in own.items():
            if key.endswith(".lora_A.weight"):
                # without one, products are not scaled
                alphas.setdefault((part, key.removesuffix(".lora_A.weight")), float(len(value)))
    if not any(key.endswith(".alpha") for key in raw) and all(key.startswith(PEFT_PREFIX) for key in raw):
        # peft keeps alphas in a file of settings, which is not here
        return None
    is_whole = all(f"{name}.lora_A.weight" in parts.get(part, {}) for part, name in alphas)
    return (parts, alphas) if parts and is_whole else None


def magnitudes(layer: str, value: torch.Tensor) -> torch.Tensor:
    """``(out,)`` of a linear layer and ``(1, out, 1, 1)`` of a convolution, from ``(out, 1, ...)``.

    Raises:
        ValueError: norms over the outputs, which LyCORIS makes unless told otherwise.
    """
    if value.ndim > 1 and (value.shape[0] == 1 or value[0].numel() != 1):
        raise ValueError(
            f"{layer}.dora_scale is {tuple(value.shape)}, a magnitude for each input, and peft's DoRA has one for each"
            " output (LyCORIS trains that with wd_on_output)"
        )
    return value.flatten() if value.ndim < 4 else value.transpose(0, 1)


def _place(pipeline: Any, layers: Mapping[str, Mapping[str, str]], key: str) -> tuple[str, str, str] | None:
    """Part, layer and side of a weight; None where there is no such layer."""
    written = next((side for side in _SIDES if key.endswith(f".{side}")), None)
    if written is None:
        return None
    part, stem = _part_of(pipeline, key.removesuffix(f".{written}"))
    name = layers.get(part, {}).get(stem)
    return None if name is None else (part, name, _SIDES[written])


def _layers_by_part(pipeline: Any) -> dict[str, dict[str, str]]:
    networks = {pipeline.denoiser_part: pipeline.denoiser_network, **pipeline.text_networks}
    return {part: _layer_names(network) for part, network in networks.items()}


def _part_of(pipeline: Any, stem: str) -> tuple[str, str]:
    """The part of the pipeline that a name belongs to, and the name within it."""
    stem = stem.removeprefix(PEFT_PREFIX)
    if (match := _TEXT.match(stem)) is not None:
        number = match[1] or "1"
        part = match[2] or ("text_encoder" if number == "1" else f"text_encoder_{number}")
        return part, stem[match.end() :]
    for prefix in (f"{pipeline.denoiser_part}.", *_PREFIXES):
        if stem.startswith(prefix):
            return pipeline.denoiser_part, stem.removeprefix(prefix)
    return pipeline.denoiser_part, stem


def _layer_names(network: Any) -> dict[str, str]:
    """Names of the layers with weights by how they may be written: with dots, or with _; those that two layers share
    are none's. Text encoders are also named as before transformers dropped a level of theirs."""
    names = [name for name, module in network.named_modules() if getattr(module, "weight", None) is not None]
    flat: dict[str, str] = {}
    shared: set[str] = set()
    for name in names:
        written = name.replace(".", "_")
        if written in flat:
            shared.add(written)
        flat[written] = name
    found = {**{written: name for written, name in flat.items() if written not in shared}, **{n: n for n in names}}
    return {**{f"text_model{mark}{written}": name for written, name in found.items() for mark in "._"}, **found}

"""Adding LoRAs to a loaded pipeline; one that does not fit is refused by name and leaves the pipeline untouched."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from safetensors import SafetensorError, safe_open

from ..commands.library_log import hushed
from .families import family_of
from .lora_families import lora_family
from .loras import Lora


def attach_loras(pipeline: Any, loras: Sequence[tuple[Lora, str]]) -> None:
    """Add LoRAs beside the weights, each as strong as it says; one of strength 0 is looked at and left out.

    Args:
        pipeline: without any.
        loras: each with what the caller's user calls it, for errors.

    Raises:
        ValueError: no LoRA there, or one that does not fit.
    """
    names, strengths = [], []
    for lora, argument in loras:
        check_only = lora.strength == 0
        name = f"default_{len(names)}"
        load_lora(
            pipeline, lora.source, revision=lora.revision, argument=argument, adapter_name=name, check_only=check_only
        )
        if not check_only:
            names.append(name)
            strengths.append(lora.strength)
    # loading another LoRA leaves it alone switched on
    if len(names) > 1 or any(strength != 1 for strength in strengths):
        pipeline.set_adapters(names, strengths)


def load_lora(
    pipeline: Any,
    lora: str | Path,
    *,
    revision: str | None = None,
    argument: str = "lora",
    adapter_name: str | None = None,
    check_only: bool = False,
) -> None:
    """Load a LoRA into the pipeline after checking every key and shape, so that a misfit leaves it untouched.

    Args:
        pipeline: gets it beside its weights.
        lora: folder, file or Hub id.
        revision: on the Hub.
        argument: what the caller's user calls it, for errors.
        adapter_name: of the LoRA in the pipeline; None takes the next one free.
        check_only: leave the pipeline as it is.

    Raises:
        ValueError: no LoRA there, or one that does not fit.
    """
    source = str(Path(lora).expanduser()) if Path(lora).expanduser().exists() else str(lora)
    try:
        # the pipeline reads state dict and metadata from the path: alpha stands in the metadata
        state_dict, *_ = pipeline.lora_state_dict(
            source, use_safetensors=True, return_lora_metadata=True, revision=revision
        )
    # diffusers' converters of other layouts trip over those that they do not know in many ways
    except Exception as error:
        if family := lora_family(_weight_shapes(source)):
            raise ValueError(
                f"{argument} is {str(lora)!r}, which does not fit the model: it seems to be made for {family}; use the"
                " model it was made for."
            ) from error
        raise ValueError(
            f"{argument} is {str(lora)!r}, which could not be read; give a folder with"
            f" {pipeline.lora_file}, such a file, or a Hub id. {_first_line(error)}"
        ) from error
    if misfit := _misfit(pipeline, state_dict):
        shapes = _weight_shapes(source) or {key: value.shape for key, value in state_dict.items()}
        family = lora_family(shapes)
        own = family_of(type(pipeline).__name__)
        seems = f" it seems to be made for {family};" if family and own not in re.split(r"[(), ]+", family) else ""
        raise ValueError(
            f"{argument} is {str(lora)!r}, which does not fit the model: {misfit};{seems} use the model it was made"
            " for."
        )
    if check_only:
        return
    # each key was looked at above, but diffusers warns of each part for which there is none, and peft of a second LoRA
    with hushed("diffusers.loaders"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        pipeline.load_lora_weights(source, use_safetensors=True, revision=revision, adapter_name=adapter_name)


def _weight_shapes(source: str) -> dict[str, list[int]]:
    """Shapes of the weights in a LoRA's file on the disk, by name; none where there is not one file."""
    place = Path(source)
    files = list(place.glob("*.safetensors")) if place.is_dir() else [place]
    if len(files) != 1 or not files[0].is_file():
        return {}
    try:
        with safe_open(files[0], framework="pt") as weights:
            return {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118
    except SafetensorError:
        return {}


def _misfit(pipeline: Any, state_dict: dict[str, torch.Tensor]) -> str | None:
    """Why the LoRA does not fit, or None; keys are ``<part>.<module>.lora_A.weight (r, in)``, ``lora_B (out, r)``."""
    denoiser = pipeline.denoiser_part
    parts = {denoiser: pipeline.denoiser_network, **pipeline.text_networks}
    foreign = [key for key in state_dict if key.split(".")[0] not in parts or "lora" not in key]
    if foreign or not state_dict:
        return f"{foreign[0]!r} belongs to no part of it" if foreign else "it holds no weights"
    peft_names = {"lora_A" in key or "lora_B" in key for key in state_dict if key.startswith(f"{denoiser}.")}
    if len(peft_names) > 1:
        # diffusers decides by the first key and then drops the keys of the other kind
        return "its weights are named in two ways, lora_A and lora.down, of which diffusers would load only one"
    for prefix, part in parts.items():
        own = {
            key.removeprefix(f"{prefix}."): value for key, value in state_dict.items() if key.startswith(f"{prefix}.")
        }
        if not own:
            continue
        if prefix != denoiser:
            own = convert_state_dict_to_peft(own)
        elif prefix == "unet":
            own = convert_unet_state_dict_to_peft(own)
        modules = dict(part.named_modules())
        for key, value in own.items():
            module_name, _, side = key.removesuffix(".weight").rpartition(".")
            # transformers dropped this level from its text encoder; diffusers drops it from the keys, too
            module = modules.get(module_name) or modules.get(module_name.removeprefix("text_model."))
            weight = getattr(module, "weight", None)
            if weight is None:
                return f"it has no {prefix}.{module_name}"
            axis = {"lora_A": 1, "lora_B": 0}.get(side)
            if axis is not None and value.shape[axis] != weight.shape[axis]:
                return f"{prefix}.{key} is {tuple(value.shape)} beside a weight of {tuple(weight.shape)}"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

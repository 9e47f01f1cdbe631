"""The LoRA as the file that plain diffusers' ``load_lora_weights`` of the model's family reads, and the way back."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import convert_unet_state_dict_to_peft
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file

from ubgen_pipeline.files.tensor_files import order_metadata
from ubgen_pipeline.files.whole_files import whole_file

from ..checkpoints.state import shard_like, whole_state

LORA_FILE = "pytorch_lora_weights.safetensors"
# of families that diffusers loads no LoRA for: peft's own layout
PEFT_FILES = ("adapter_model.safetensors", "adapter_config.json")
_PEFT_PREFIX = "base_model.model."


def save_lora(pipeline: Any, folder: str | Path, adapter_name: str = "default", *, write: bool = True) -> Path:
    """Write the LoRA of the denoiser in float32, with rank and alpha as metadata; returns the file's path.

    It is the file that the family's ``lora_file`` names, which is replaced in one step. A sharded LoRA is gathered, so
    every rank must call it, all but one with ``write=False``.
    """
    # all layers get peft's names: diffusers has names of its own for attention only, and reads one kind from a file
    network, part = pipeline.denoiser_network, pipeline.denoiser_part
    layers = whole_state(get_peft_model_state_dict(network, adapter_name=adapter_name))
    file = Path(folder) / pipeline.lora_file
    if write:
        settings = network.peft_config[adapter_name].to_dict()
        # a set's order changes from process to process, and equal weights should give equal files
        settings = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
        with whole_file(file) as temporary:
            weights = {name: value.detach().float().cpu().contiguous() for name, value in layers.items()}
            arguments = {f"{part}_lora_layers": weights, f"{part}_lora_adapter_metadata": settings}
            pipeline.save_lora_weights(folder, weight_name=temporary.name, **arguments)
            order_metadata(temporary)
    return file


def load_lora_into(
    pipeline: Any,
    folder: str | Path,
    adapter_name: str = "default",
    argument: str = "resume_from_checkpoint",
) -> None:
    """Put a saved LoRA into the adapter that the pipeline's denoiser already has, so that training goes on with it.

    ``argument`` is the setting that named the folder, for errors.

    Raises:
        ValueError: there is no LoRA in the folder, or it is of another rank or alpha, other layers or another model.
    """
    file = Path(folder) / pipeline.lora_file
    if not file.is_file():
        raise ValueError(
            f"{argument} is {str(folder)!r}, which holds no {file.name}; give a folder that this trainer wrote."
        )
    part = pipeline.denoiser_part
    prefix = f"{part}." if pipeline.lora_file == LORA_FILE else _PEFT_PREFIX
    saved = {name.removeprefix(prefix): value for name, value in load_file(file).items()}
    if part == "unet":
        saved = convert_unet_state_dict_to_peft(saved)
    own = get_peft_model_state_dict(pipeline.denoiser_network, adapter_name=adapter_name)
    misfits = sorted(set(own) ^ set(saved)) or [n for n, v in own.items() if v.shape != saved[n].shape]
    if misfits:
        raise ValueError(
            f"{argument} is {str(folder)!r}, whose LoRA does not fit the model configured: {len(misfits)} weights"
            f" differ, first {misfits[0]!r}; give the model, lora_rank and lora_target_modules it was trained with."
        )
    alpha = pipeline.denoiser_network.peft_config[adapter_name].lora_alpha
    if (written := _written_alpha(file, part)) not in (None, alpha):
        raise ValueError(
            f"{argument} is {str(folder)!r}, whose LoRA has the alpha {written:g}, and lora_alpha is {alpha:g} here;"
            " give the one that it was trained with."
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(shard_like(saved[name].to(value.dtype), value))


def _written_alpha(file: Path, part: str) -> float | None:
    """The alpha that :func:`save_lora` noted; None where a file of other origin says nothing of it."""
    if file.name == PEFT_FILES[0]:
        return json.loads((file.parent / PEFT_FILES[1]).read_text(encoding="utf-8")).get("lora_alpha")
    with safe_open(file, framework="pt") as weights:
        settings = json.loads((weights.metadata() or {}).get("lora_adapter_metadata", "{}"))
    return settings.get(f"{part}.lora_alpha")

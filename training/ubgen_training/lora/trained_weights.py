"""The weights that training changes, written for plain diffusers and read back: a LoRA, or the whole denoiser.

A whole denoiser is saved in a folder of its part's name, as ``from_pretrained(folder, subfolder="unet")`` of its class
reads it.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ubgen_pipeline.files.tensor_files import give_ordinary_permissions, save_tensors

from ..checkpoints.state import shard_like, whole_state
from .lora_files import load_lora_into, save_lora

DENOISER_FILE = "diffusion_pytorch_model.safetensors"


def save_trained_weights(pipeline: Any, train_method: str, folder: str | Path, *, write: bool = True) -> None:
    """Write what ``train_method`` trains of the pipeline's denoiser, its LoRA where that is ``lora``, else all of it.

    Every rank must call it, all but one with ``write=False``.
    """
    if train_method == "lora":
        save_lora(pipeline, folder, write=write)
    else:
        save_denoiser(pipeline.denoiser_network, Path(folder) / pipeline.denoiser_part, write=write)


def load_trained_weights(pipeline: Any, train_method: str, folder: str | Path) -> None:
    """Put what :func:`save_trained_weights` wrote into the pipeline's denoiser, so that training goes on with it.

    Raises:
        ValueError: there are no such weights in the folder, or they are of another model or ``train_method``.
    """
    if train_method == "lora":
        load_lora_into(pipeline, folder)
    else:
        load_denoiser_into(pipeline.denoiser_network, Path(folder) / pipeline.denoiser_part)


def save_denoiser(network: Any, folder: Path, *, write: bool = True) -> None:
    """Write the network in float32 in diffusers' layout, gathering it where it is sharded."""
    weights = {}
    for name, value in network.state_dict().items():
        # gathered one at a time, and kept by the writing rank only, to save memory
        whole = whole_state(value)
        if write:
            weights[name] = whole.detach().cpu().contiguous()
    if write:
        folder.mkdir(parents=True, exist_ok=True)
        network.save_config(folder)
        save_tensors(weights, folder / DENOISER_FILE, metadata={"format": "pt"})


def save_plain_pipeline(pipeline: Any, folder: Path) -> None:
    """Write the whole model as diffusers' own pipeline of its family, which loads it anywhere without this code."""
    kind = next(kind for kind in type(pipeline).__mro__ if kind.__module__.startswith("diffusers.pipelines."))
    accepted = inspect.signature(kind.__init__).parameters
    settings = {name: value for name, value in pipeline.config.items() if name in accepted}
    # of the several pipelines that some families have, each lists what the others may lack
    parts = {name: part for name, part in pipeline.components.items() if name in accepted}
    plain: Any = kind(**{**settings, **parts})
    plain.save_pretrained(folder, safe_serialization=True)
    # where the parts were loaded from is nobody else's business
    for file in (folder / plain.config_name, *folder.glob("*/config.json")):
        config = json.loads(file.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    give_ordinary_permissions(*folder.glob("*/*.safetensors"))


@torch.no_grad()
def load_denoiser_into(network: Any, folder: Path) -> None:
    """Copy saved weights into ``network``.

    Raises:
        ValueError: there is no denoiser in the folder, or it is of another architecture.
    """
    file = folder / DENOISER_FILE
    if not file.is_file():
        raise ValueError(
            f"{folder} holds no {DENOISER_FILE}; resume with the train_method the checkpoint was made with."
        )
    saved, own = load_file(file), network.state_dict()
    misfits = sorted(set(own) ^ set(saved)) or [n for n, value in own.items() if value.shape != saved[n].shape]
    if misfits:
        raise ValueError(
            f"the denoiser in {folder} does not fit the model configured: {len(misfits)} weights differ, first "
            f"{misfits[0]!r}; resume with the model it was trained with."
        )
    for name, value in own.items():
        value.copy_(shard_like(saved[name], value))

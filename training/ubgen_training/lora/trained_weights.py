"""The weights that training changes, written for plain diffusers and read back: a LoRA, or the whole UNet.

A whole UNet is saved as ``UNet2DConditionModel.from_pretrained(folder, subfolder="unet")`` reads it.
"""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from ubgen_pipeline.files.tensor_files import save_tensors

from ..checkpoints.state import shard_like, whole_state
from .lora_files import load_lora_into, save_lora

UNET_FOLDER = "unet"
UNET_FILE = "diffusion_pytorch_model.safetensors"


def save_trained_weights(
    unet: UNet2DConditionModel, train_method: str, folder: str | Path, *, write: bool = True
) -> None:
    """Write what ``train_method`` trains of ``unet``, its LoRA where that is ``lora``, else all of it.

    Every rank must call it, all but one with ``write=False``.
    """
    if train_method == "lora":
        save_lora(unet, folder, write=write)
    else:
        save_unet(unet, Path(folder) / UNET_FOLDER, write=write)


def load_trained_weights(unet: UNet2DConditionModel, train_method: str, folder: str | Path) -> None:
    """Put what :func:`save_trained_weights` wrote into ``unet``, so that training goes on with it.

    Raises:
        ValueError: there are no such weights in the folder, or they are of another model or ``train_method``.
    """
    if train_method == "lora":
        load_lora_into(unet, folder)
    else:
        load_unet_into(unet, Path(folder) / UNET_FOLDER)


def save_unet(unet: UNet2DConditionModel, folder: Path, *, write: bool = True) -> None:
    """Write the UNet in float32 in diffusers' layout, gathering it where it is sharded."""
    weights = {}
    for name, value in unet.state_dict().items():
        # gathered one at a time, and kept by the writing rank only, to save memory
        whole = whole_state(value)
        if write:
            weights[name] = whole.detach().cpu().contiguous()
    if write:
        folder.mkdir(parents=True, exist_ok=True)
        unet.save_config(folder)
        save_tensors(weights, folder / UNET_FILE, metadata={"format": "pt"})


@torch.no_grad()
def load_unet_into(unet: UNet2DConditionModel, folder: Path) -> None:
    """Copy saved weights into ``unet``.

    Raises:
        ValueError: there is no UNet in the folder, or it is of another architecture.
    """
    file = folder / UNET_FILE
    if not file.is_file():
        raise ValueError(f"{folder} holds no {UNET_FILE}; resume with the train_method the checkpoint was made with.")
    saved, own = load_file(file), unet.state_dict()
    misfits = sorted(set(own) ^ set(saved)) or [n for n, value in own.items() if value.shape != saved[n].shape]
    if misfits:
        raise ValueError(
            f"the UNet in {folder} does not fit the model configured: {len(misfits)} weights differ, first "
            f"{misfits[0]!r}; resume with the model it was trained with."
        )
    for name, value in own.items():
        value.copy_(shard_like(saved[name], value))

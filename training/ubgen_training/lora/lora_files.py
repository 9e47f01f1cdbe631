"""The LoRA as the file that plain ``StableDiffusionPipeline.load_lora_weights`` reads, and the way back."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_unet_state_dict_to_peft
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from ubgen_pipeline.files.tensor_files import order_metadata
from ubgen_pipeline.files.whole_files import whole_file

from ..checkpoints.state import shard_like, whole_state

LORA_FILE = "pytorch_lora_weights.safetensors"


def save_lora(
    unet: UNet2DConditionModel, folder: str | Path, adapter_name: str = "default", *, write: bool = True
) -> Path:
    """Write the UNet's LoRA in float32, with rank and alpha as metadata; returns the file's path.

    A sharded LoRA is gathered, so every rank must call it, all but one with ``write=False``. A file of that name is
    replaced in one step.
    """
    # all layers get peft's names: diffusers has names of its own for attention only, and reads one kind from a file
    layers = whole_state(get_peft_model_state_dict(unet, adapter_name=adapter_name))
    file = Path(folder) / LORA_FILE
    if write:
        settings = unet.peft_config[adapter_name].to_dict()
        # a set's order changes from process to process, and equal weights should give equal files
        settings = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
        with whole_file(file) as temporary:
            StableDiffusionPipeline.save_lora_weights(
                folder,
                unet_lora_layers={name: value.detach().float().cpu().contiguous() for name, value in layers.items()},
                unet_lora_adapter_metadata=settings,
                weight_name=temporary.name,
            )
            order_metadata(temporary)
    return file


def load_lora_into(
    unet: UNet2DConditionModel,
    folder: str | Path,
    adapter_name: str = "default",
    argument: str = "resume_from_checkpoint",
) -> None:
    """Put a saved LoRA into the adapter that ``unet`` already has, so that training goes on with it.

    ``argument`` is the setting that named the folder, for errors.

    Raises:
        ValueError: there is no LoRA in the folder, or it is of another rank, other layers or another model.
    """
    file = Path(folder) / LORA_FILE
    if not file.is_file():
        raise ValueError(
            f"{argument} is {str(folder)!r}, which holds no {LORA_FILE}; give a folder that this trainer wrote."
        )
    saved = {name.removeprefix("unet."): value for name, value in load_file(file).items()}
    saved = convert_unet_state_dict_to_peft(saved)
    own = get_peft_model_state_dict(unet, adapter_name=adapter_name)
    misfits = sorted(set(own) ^ set(saved)) or [n for n, v in own.items() if v.shape != saved[n].shape]
    if misfits:
        raise ValueError(
            f"{argument} is {str(folder)!r}, whose LoRA does not fit the model configured: {len(misfits)} weights"
            f" differ, first {misfits[0]!r}; give the model, lora_rank and lora_target_modules it was trained with."
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(shard_like(saved[name].to(value.dtype), value))

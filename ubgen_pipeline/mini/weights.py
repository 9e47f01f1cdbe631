"""Reading the shipped weights: stored as fp16 safetensors, used as float32."""

from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from ..files.tensor_files import save_tensors

Model = TypeVar("Model", bound=nn.Module)


def load_float32(model: Model, file: Path) -> Model:
    """Fill ``model`` from ``file`` and return it frozen, in eval mode."""
    tensors = load_file(file)
    model.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    )
    return model.eval().requires_grad_(False)


def save_float16(model: nn.Module, file: Path) -> None:
    """Write ``model``'s state with every floating-point tensor in fp16."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (value.to(torch.float16) if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    save_tensors(tensors, file, metadata={"format": "pt"})

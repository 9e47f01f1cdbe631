"""A short name for the frozen weights a run starts from, so that a checkpoint is not resumed on another model."""

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

VALUES_PER_TENSOR = 64


@torch.no_grad()
def model_fingerprint(modules: Mapping[str, nn.Module]) -> str:
    """A hash of the names, shapes and some evenly spaced values of all parameters but those of a LoRA.

    Some values rather than all, because a model may hold gigabytes; two trainings of one architecture differ in them.
    """
    digest = hashlib.sha256()
    for prefix, module in sorted(modules.items()):
        for name, parameter in sorted(module.named_parameters()):
            if "lora_" in name:
                continue
            stride = max(parameter.numel() // VALUES_PER_TENSOR, 1)
            values = parameter.detach().flatten()[::stride][:VALUES_PER_TENSOR].float().cpu()
            # an adapted layer keeps its own weight under another name
            digest.update(f"{prefix}.{name.replace('.base_layer', '')} {tuple(parameter.shape)}".encode())
            digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]

"""What the mini model's training loops keep: an average of the weights, and a state file to go on from.

The average is not :mod:`ubgen_training.checkpoints.weight_average`: its ramp begins one update later, and the shipped
weights were made with it.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from ubgen_pipeline.files.tensor_files import save_tensors


class ExponentialAverage:
    """A moving average of parameters: after update n, from 1, it is d old + (1 - d) new.

    d is min(``decay``, (1 + n) / (10 + n)), so that the untrained weights are soon forgotten.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], decay: float = 0.999):
        self.decay = decay
        self.averages = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, torch.Tensor], step: int) -> None:
        """Take in the weights after update number ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in parameters.items():
            self.averages[name].lerp_(value.detach(), 1 - decay)


def save_training_state(
    path: Path,
    step: int,
    parameters: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    averages: ExponentialAverage | None = None,
) -> None:
    """Write weights, AdamW moments and averages; a crash leaves the previous file whole."""
    tensors = {f"parameters.{name}": value.detach().contiguous() for name, value in parameters.items()}
    if averages is not None:
        tensors |= {f"averages.{name}": value.contiguous() for name, value in averages.averages.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value.contiguous() for key, value in moments.items()}
    save_tensors({name: value.clone() for name, value in tensors.items()}, path, metadata={"step": str(step)})


def load_training_state(
    path: Path,
    parameters: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    averages: ExponentialAverage | None = None,
) -> int:
    """Restore what :func:`save_training_state` wrote, in place; returns the step, 0 if there is no file."""
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(tensors[f"parameters.{name}"])
            if averages is not None:
                averages.averages[name].copy_(tensors[f"averages.{name}"])
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return step

"""An exponential moving average of the trained weights, kept beside them in float32.

After update n (counted from 0) with weights w the average becomes d w' + (1 - d) w, where w' is the average before and
d = min(decay, (1 + n) / (10 + n)): the ramp keeps the untrained start from weighing on short runs. LoRA's two factors
are averaged one by one, so their product is not the average of the products; at small learning rates both are close.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class WeightAverage(TrainerCallback):
    """The average of a module's trainable parameters; as a trainer's callback it follows every update.

    Args:
        module: its parameters that require gradient are averaged. They are read when training begins, because a
            launcher may move or shard them before.
        decay: in [0, 1); nearer to 1 averages over more updates, about 1 / (1 - decay) of them.
        with_buffers: average the floating-point buffers too, such as the running statistics of normalisation layers.

    Raises:
        ValueError: ``decay`` out of range, or nothing to train in ``module``.
    """

    def __init__(self, module: nn.Module, decay: float = 0.99, *, with_buffers: bool = False):
        check_average_decay(decay, "decay")
        self.module = module
        self.decay = decay
        self.with_buffers = with_buffers
        self.num_updates = 0
        self.weights: dict[str, torch.Tensor] = {}
        if not any(weight.requires_grad for weight in module.parameters()):
            raise ValueError("the module has no trainable parameter to average; give some requires_grad first.")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.weights:
            self.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.update()

    def start(self) -> None:
        """Begin with the module's weights as they are."""
        self.num_updates = 0
        self.weights = {name: weight.detach().float().clone() for name, weight in self._trained()}

    def current_decay(self) -> float:
        """d of the next update."""
        return min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))

    @torch.no_grad()
    def update(self) -> None:
        """Take the module's weights in; call it once after each optimizer step, on every rank."""
        share = 1 - self.current_decay()
        for name, weight in self._trained():
            average = self.weights[name]
            average.add_(weight.detach().float() - average, alpha=share)
        self.num_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module with the averaged weights inside the ``with``, with its own again after it, bit for bit."""
        own = {name: weight.detach().clone() for name, weight in self._trained()}
        self._write(self.weights)
        try:
            yield
        finally:
            self._write(own)

    def state_dict(self) -> dict[str, Any]:
        """The averages in full, also where the parameters are sharded; every rank must call it then."""
        return {
            "num_updates": self.num_updates,
            "weights": {name: _full(average).cpu() for name, average in self.weights.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Raises:
            ValueError: it is of other parameters.
        """
        self.start()
        saved = state["weights"]
        misfits = sorted(set(saved) ^ set(self.weights)) or [
            name for name, average in self.weights.items() if average.shape != saved[name].shape
        ]
        if misfits:
            raise ValueError(
                f"the checkpoint's weight average does not fit: {len(misfits)} weights differ, first {misfits[0]!r}; "
                "resume with the model, and where a LoRA is trained with the LoRA settings, that it was trained with."
            )
        self.weights = {name: _like(saved[name], average) for name, average in self.weights.items()}
        self.num_updates = state["num_updates"]

    @torch.no_grad()
    def _write(self, weights: dict[str, torch.Tensor]) -> None:
        for name, weight in self._trained():
            weight.copy_(weights[name])

    def _trained(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from ((name, weight) for name, weight in self.module.named_parameters() if weight.requires_grad)
        if self.with_buffers:
            yield from ((name, value) for name, value in self.module.named_buffers() if value.is_floating_point())


def check_average_decay(decay: float, setting: str) -> None:
    """Raise ``ValueError``, naming the ``setting`` that gave ``decay``, unless ``0 <= decay < 1``."""
    if not 0 <= decay < 1:
        raise ValueError(f"{setting} is {decay}; choose one from 0 (no average) to below 1, such as 0.99.")


def _full(tensor: torch.Tensor) -> torch.Tensor:
    # always a copy, because the state must not change with the next update
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def _like(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    value = value.to(target.device, torch.float32)
    if isinstance(target, DTensor):
        return distribute_tensor(value, target.device_mesh, target.placements)
    return value.clone()

"""What these trainings need of libraries' private parts, where there is no public way; a test tells when one changes.

Beside the names used here, :class:`~ubgen_training.checkpoints.trainer.CheckpointingTrainer` overrides private methods
of ``transformers.Trainer``, because that class has no other place to change how checkpoints are written. They are
listed in ``OVERRIDDEN_METHODS``, so that the same test covers them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import Trainer

# methods of transformers.Trainer that our trainers override, with the parameters that they are called with
OVERRIDDEN_METHODS = {
    "_get_grad_norm": ("model", "grad_norm"),
    "_save_checkpoint": ("model", "trial"),
    "_save_optimizer_and_scheduler": ("output_dir",),
    "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
    "_load_optimizer_and_scheduler": ("checkpoint",),
    "_save_scaler": ("output_dir",),
    "_load_scaler": ("checkpoint",),
    "_load_rng_state": ("checkpoint",),
    "_get_dataloader": ("dataset", "description", "batch_size"),
}


class ModuleWithFrozenParts(nn.Module):
    """A module whose moves and casts take frozen parts along that are kept out of its parameters and state dict.

    ``nn.Module._apply`` is the one method that ``to``, ``cuda``, ``half`` and all others like them call, also on the
    children of a module that is moved; torch has no public one.
    """

    def frozen_parts(self) -> Iterable[nn.Module]:
        """Modules that go where this one goes."""
        return ()

    def move_tensors(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace tensors that are no parameters by ``fn`` of them."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for part in self.frozen_parts():
            part._apply(fn)
        self.move_tensors(fn)
        return self


def set_adapters_disabled(layers: Sequence[BaseTunerLayer], disabled: Sequence[bool]) -> None:
    """Switch the adapters of peft's ``layers`` off or on, each as ``disabled`` says.

    The public ``enable_adapters`` also sets ``requires_grad`` of the adapters' weights. In the middle of a forward
    pass, whose graph holds these weights, that would cut them off.
    """
    for layer, is_disabled in zip(layers, disabled, strict=True):
        layer._disable_adapters = is_disabled


def running_loss(trainer: Trainer) -> dict[str, Any]:
    """The loss summed since the last log, which the next log divides, and the update of that log."""
    return {"running_loss": trainer._tr_loss, "last_logged_step": trainer._globalstep_last_logged}


def restore_running_loss(trainer: Trainer, state: dict[str, Any]) -> None:
    """Restore what :func:`running_loss` gave, after the trainer has set up its loop and before its first step."""
    trainer._tr_loss.copy_(state["running_loss"])
    # the trainer's mean over this call's updates must not count the losses of earlier ones
    trainer._total_loss_scalar -= state["running_loss"].item()
    trainer._globalstep_last_logged = state["last_logged_step"]


def log_image(callback: Any, name: str, image: Any, step: int) -> None:
    """Hand a PIL ``image`` to the tracker of W&B or trackio behind one of transformers' callbacks, if it is one's."""
    for attribute in ("_wandb", "_trackio"):
        tracker = getattr(callback, attribute, None)
        if tracker is not None and getattr(callback, "_initialized", True):
            # these number their own steps; transformers logs the update under this name, too
            tracker.log({name: tracker.Image(image), "train/global_step": step})

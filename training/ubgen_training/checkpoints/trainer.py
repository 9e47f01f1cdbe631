"""Checkpoints of every trainer: complete or absent, exact on resume, and without pickle.

Deliberate deviations from ``transformers.Trainer``: safetensors and JSON only; a folder is renamed into place when all
ranks have written their part; the running loss is kept, so that logs continue; sharded state is gathered, so that a
file holds whole tensors whatever the launcher. Several nodes need one shared ``output_dir``.
"""

import shutil
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, Trainer
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_utils import SaveStrategy, rotate_checkpoints

from ubgen_pipeline.commands.library_log import log_into
from ubgen_pipeline.files.folder_lock import STATE_FOLDER

from .config import ResumableConfig
from .folders import (
    check_same_run,
    commit_checkpoint,
    find_checkpoint,
    model_fingerprint,
    newest_checkpoint,
    partial_folder,
    read_manifest,
)
from .library_internals import restore_running_loss, running_loss
from .progress import ProgressLine
from .state import (
    load_optimizer_state,
    load_state,
    random_state,
    restore_random_state,
    save_state,
    whole_state,
)

TRAINER_STATE = "trainer_state.json"


class CheckpointingTrainer(Trainer, ABC):
    """A trainer that writes and reads exact checkpoints of whatever its subclass trains.

    A subclass names its ``settings_file`` and its ``class_names``, sets ``args`` to its own config's type, and says
    what its model is by :meth:`initial_modules`, :meth:`save_weights` and :meth:`load_weights`. It keeps more state by
    extending :meth:`extra_state` (one for the run, the same on all ranks) or :meth:`rank_state` (one per rank), with
    their loading halves.

    Raises:
        ValueError: DeepSpeed with checkpoints to resume from, which only DeepSpeed itself can write, as pickles.
    """

    args: ResumableConfig
    # of what is trained; a checkpoint is only resumed with the same ones
    class_names: list[str]
    # the file in a checkpoint with the settings it was made with; its name tells the trainers apart
    settings_file: str

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # the base prints a dictionary at every log, and a bar of its own
        for callback in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
            self.remove_callback(callback)
        if not self.args.disable_tqdm:
            self.add_callback(ProgressLine())
        if self.is_deepspeed_enabled and self.args.save_strategy != "no" and not self.args.save_only_model:
            strategy = SaveStrategy(self.args.save_strategy).value
            raise ValueError(
                f"save_strategy is {strategy!r} under DeepSpeed, whose optimizer state is only written as pickles; "
                "set save_only_model or save_strategy no, or launch with DDP or FSDP2."
            )
        # now, because a launcher may shard the weights later
        self._fingerprint = model_fingerprint(self.initial_modules())

    @abstractmethod
    def initial_modules(self) -> dict[str, nn.Module]:
        """What a run starts from, by names that stay the same; a checkpoint is only resumed on the same weights."""

    @abstractmethod
    def save_weights(self, folder: Path, *, write: bool = True) -> None:
        """Write the trained weights; every rank must call it, all but one with ``write=False``."""

    @abstractmethod
    def load_weights(self, folder: Path) -> None:
        """Put what :meth:`save_weights` wrote into the model.

        Raises:
            ValueError: there are no such weights in the folder, or they are of another model.
        """

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train, or go on from a checkpoint: a folder, or True or ``last`` for the newest complete one.

        Raises:
            ValueError: there is no complete checkpoint, or it is of another model or other settings.
            FloatingPointError: a loss, reward or gradient is not finite; names the step and the last good checkpoint.
        """
        checkpoint = find_checkpoint(resume_from_checkpoint, str(self.args.output_dir))
        if checkpoint is not None:
            self._check_resumable(Path(checkpoint))
        log_into(Path(str(self.args.output_dir)) / STATE_FOLDER)
        try:
            return super().train(resume_from_checkpoint=checkpoint, **kwargs)
        except FloatingPointError as error:
            newest = newest_checkpoint(str(self.args.output_dir))
            last = f"The last good checkpoint is {newest}." if newest else "There is no checkpoint yet."
            raise FloatingPointError(f"{error} {last}") from error

    def train_and_save(self, checkpoint: str | None) -> Path:
        """Train, from ``checkpoint`` if there is one, then write weights and state; returns their folder."""
        self.train(resume_from_checkpoint=checkpoint)
        self.save_model()
        self.save_state()
        return Path(str(self.args.output_dir))

    def extra_state(self) -> dict[str, Any]:
        """State of the run beyond model, optimizer and schedule; called on every rank, written by the first."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`extra_state` gave, before the first step; tensors come whole and on the CPU."""

    def rank_state(self) -> dict[str, Any]:
        """State of this rank alone: its random states, and the loss summed since the last log."""
        return {"random": random_state(), **running_loss(self)}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`rank_state` gave."""
        restore_random_state(state["random"])
        restore_running_loss(self, state)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained weights and the settings; every rank must call it."""
        folder, write = Path(output_dir or str(self.args.output_dir)), self.args.should_save
        if write:
            folder.mkdir(parents=True, exist_ok=True)
            # to_json_string writes placeholders instead of tokens
            (folder / self.settings_file).write_text(self.args.to_json_string() + "\n")
        self.save_weights(folder, write=write)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        # called after clipping and before the optimizer. With a loss scaler infinities are normal: it skips the update
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        scaled = getattr(self.accelerator, "scaler", None) is not None or self.is_deepspeed_enabled
        if not scaled and not torch.isfinite(torch.as_tensor(grad_norm)):
            raise FloatingPointError(
                f"step {self.state.global_step}: the gradient of the weights is not finite; training stopped before "
                "they were touched. Lower the learning rate or use a wider precision."
            )
        return grad_norm

    def _check_resumable(self, checkpoint: Path) -> None:
        manifest = read_manifest(checkpoint)
        if self.is_deepspeed_enabled or not manifest["resumable"]:
            reason = "DeepSpeed's state" if self.is_deepspeed_enabled else "it was saved with save_only_model, which"
            raise ValueError(
                f"resume_from_checkpoint is {str(checkpoint)!r}, but {reason} cannot be resumed from; "
                "launch with DDP or FSDP2 and checkpoints that hold the optimizer."
            )
        check_same_run(checkpoint, self.settings_file, self.args.settings_to_resume_with(), self.run_facts())
        if manifest["num_processes"] != self.args.world_size:
            warnings.warn(
                f"{checkpoint} was written by {manifest['num_processes']} processes and goes on with "
                f"{self.args.world_size}: the batches and their noise will not be those of an uninterrupted run.",
                stacklevel=3,
            )

    def run_facts(self) -> dict[str, Any]:
        """What a resumed run must share beyond its settings; goes into the checkpoint's manifest."""
        return {"model": self._fingerprint, "class_names": self.class_names}

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        partial = partial_folder(folder)
        if self.args.should_save:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.save_model(str(partial), _internal_call=True)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(partial))
            self._save_scaler(str(partial))
            save_state(self.rank_state(), partial / f"rank_state_{self.args.process_index}.safetensors")
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(partial / TRAINER_STATE))
            facts = {
                "step": self.state.global_step,
                "num_processes": self.args.world_size,
                "resumable": not self.args.save_only_model,
                **self.run_facts(),
            }
            commit_checkpoint(folder, facts)
            rotate_checkpoints(str(self.args.output_dir), save_total_limit=self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        optimizer, lr_scheduler = self._optimizer_and_schedule()
        state = {"optimizer": whole_state(optimizer.state_dict()), "lr_scheduler": lr_scheduler.state_dict()}
        extra_state = whole_state(self.extra_state())
        if self.args.should_save:
            save_state(state, Path(output_dir) / "optimizer.safetensors")
            save_state(extra_state, Path(output_dir) / "extra_state.safetensors")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.load_weights(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state = load_state(Path(checkpoint) / "optimizer.safetensors")
        optimizer, lr_scheduler = self._optimizer_and_schedule()
        load_optimizer_state(optimizer, state["optimizer"])
        lr_scheduler.load_state_dict(state["lr_scheduler"])
        self.load_extra_state(load_state(Path(checkpoint) / "extra_state.safetensors"))

    def _optimizer_and_schedule(self) -> tuple[Any, Any]:
        """Both as the launcher has prepared them, which then have the methods of torch's own."""
        assert self.optimizer is not None and self.lr_scheduler is not None
        return self.optimizer, self.lr_scheduler

    def _save_scaler(self, output_dir: str) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and self.args.should_save:
            save_state(scaler.state_dict(), Path(output_dir) / "scaler.safetensors")

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and checkpoint is not None:
            scaler.load_state_dict(load_state(Path(checkpoint) / "scaler.safetensors"))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        file = Path(checkpoint) / f"rank_state_{self.args.process_index}.safetensors"
        # a run that is resumed on more processes has no file for the added ones
        if file.is_file():
            self.load_rank_state(load_state(file))

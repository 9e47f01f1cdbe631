"""Pushing a training to the Hub: after checkpoints and at the end, one commit each, from a copy.

Set with ``push_to_hub``, ``hub_model_id``, ``hub_private_repo`` and ``hub_strategy`` (``every_save`` or ``end``).
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile
from transformers import TrainerCallback
from transformers.trainer_utils import HubStrategy

from ubgen_hub_cards.model_card import render_model_card
from ubgen_pipeline.hub.access import check_may_write, check_repo_id, open_repository, retried
from ubgen_pipeline.prompts.class_prompts import ClassPrompt

from ..lora.lora_files import LORA_FILE, PEFT_FILES
from ..lora.trained_weights import DENOISER_FILE
from .config import SamplerConfig
from .model_card import training_facts
from .trainer import SamplerTrainer

CARD_FILE = "README.md"
GRID_FOLDER = "samples"
# names of the denoiser's part in diffusers' layout
_DENOISER_FOLDERS = ("unet", "transformer")
_CONFIGS = tuple(f"{folder}/config.json" for folder in _DENOISER_FOLDERS)
WEIGHTS = (LORA_FILE, *PEFT_FILES, *_CONFIGS, *(f"{folder}/{DENOISER_FILE}" for folder in _DENOISER_FOLDERS))


class HubModel:
    """The repository of one model.

    Args:
        repo_id: ``owner/name``.
        private: create it private.

    Raises:
        ValueError: a name that the Hub does not allow.
    """

    def __init__(self, repo_id: str, *, private: bool = False):
        check_repo_id("hub_model_id", repo_id)
        self.repo_id, self.private = repo_id, private
        self.api = HfApi(library_name="ubgen")

    def open(self) -> None:
        """Create the repository or check the one there, before any training.

        Raises:
            ValueError: no token or right to write, or a repository that holds something else.
        """
        check_may_write(self.api, self.repo_id)
        open_repository(self.api, self.repo_id, "model", private=self.private)
        files = retried(lambda: self._files(None), "reading the repository", self.repo_id)
        foreign = [name for name in files if not _is_ours(name) and name != ".gitattributes"]
        if foreign:
            raise ValueError(
                f"hub_model_id is {self.repo_id!r}, which holds something else ({foreign[0]!r}); give a new name."
            )

    def push(self, folder: str | Path, card: str, grids: Mapping[str, Path], message: str) -> str:
        """Replace the repository's content by these weights, grids and card; returns the commit's id.

        Args:
            folder: holds the weights, as :func:`~ubgen_training.lora.trained_weights.save_trained_weights` wrote them.
            card: Markdown; it shows the grids by their names.
            grids: pictures, by their names in the repository, ``samples/….png``.
            message: of the commit.

        Raises:
            ValueError: no weights in the folder, or the Hub refuses for good.
        """
        with tempfile.TemporaryDirectory() as copy:
            files = _snapshot(Path(folder), grids, Path(copy))
            (Path(copy) / CARD_FILE).write_text(card, encoding="utf-8")
            files.append(CARD_FILE)

            def commit() -> str:
                head = self.api.model_info(self.repo_id).sha
                gone = [name for name in self._files(head) if _is_ours(name) and name not in files]
                operations = [CommitOperationAdd(name, str(Path(copy) / name)) for name in files]
                operations += [CommitOperationDelete(name) for name in gone]
                return self.api.create_commit(self.repo_id, operations, commit_message=message, parent_commit=head).oid

            return retried(commit, f"pushing to {self.repo_id}", self.repo_id)

    def _files(self, revision: str | None) -> list[str]:
        entries = self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision)
        return [entry.path for entry in entries if isinstance(entry, RepoFile)]


def open_hub_model(config: SamplerConfig) -> HubModel | None:
    """The repository that ``config`` names, made or checked before a model is loaded; None where nothing is pushed.

    Raises:
        ValueError: no token or right to write, or a repository that holds something else.
    """
    if not config.push_to_hub:
        return None
    hub = HubModel(str(config.hub_model_id), private=bool(config.hub_private_repo))
    # one process is enough, and the Hub limits the number of requests
    if config.process_index == 0:
        hub.open()
    return hub


class TrainingPush(TrainerCallback):
    """Pushes what a trainer has trained.

    Args:
        hub: the opened repository; None pushes nothing.
        trainer: its checkpoints are pushed as they are saved, where ``hub_strategy`` is ``every_save``.
        prompts: of its classes, in label order.
        method: one sentence of Markdown on how the weights are trained.
    """

    def __init__(self, hub: HubModel | None, trainer: SamplerTrainer, prompts: Sequence[ClassPrompt], method: str):
        self.hub, self.trainer, self.prompts, self.method = hub, trainer, prompts, method
        if hub is not None:
            trainer.add_callback(self)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Push the checkpoint that was just sealed."""
        if args.hub_strategy == HubStrategy.EVERY_SAVE:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            self.push(folder, f"Training in progress, update {state.global_step}")

    def finish(self) -> None:
        """Push the weights in the trainer's folder, after they were saved."""
        self.push(Path(str(self.trainer.args.output_dir)), f"Trained, update {self.trainer.state.global_step}")

    def push(self, folder: Path, message: str) -> None:
        """Push the weights in ``folder`` with the newest grids and a card; only the first process does."""
        if self.hub is None or not self.trainer.args.should_save:
            return
        facts = training_facts(self.trainer, self.prompts, self.method)
        output_dir = Path(str(self.trainer.args.output_dir))
        grids = {name: output_dir / name for name in facts.grids}
        self.hub.push(folder, render_model_card(facts), grids, message)


def _is_ours(name: str) -> bool:
    return name in (*WEIGHTS, CARD_FILE) or (name.startswith(f"{GRID_FOLDER}/") and name.endswith(".png"))


def _snapshot(folder: Path, grids: Mapping[str, Path], copy: Path) -> list[str]:
    """Copy the weights and grids; returns their names in the repository."""
    sources = {name: folder / name for name in WEIGHTS if (folder / name).is_file()}
    if not sources:
        raise ValueError(f"{folder} holds no {LORA_FILE} and no unet/{DENOISER_FILE} to push.")
    for name, source in {**sources, **grids}.items():
        if not _is_ours(name):
            raise ValueError(f"grids holds {name!r}; give names {GRID_FOLDER}/….png.")
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy / name)
    for config in filter(Path.is_file, (copy / name for name in _CONFIGS)):
        # a path on this machine is not published
        values = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    return [*sources, *grids]

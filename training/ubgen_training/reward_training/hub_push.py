"""Pushing a training to the Hub: after checkpoints and at the end, one commit each, from a copy.

Set with ``push_to_hub``, ``hub_model_id``, ``hub_private_repo`` and ``hub_strategy`` (``every_save`` or ``end``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import HubStrategy

from ubgen_hub_cards.model_card import render_model_card
from ubgen_pipeline.prompts.class_prompts import ClassPrompt

from .config import SamplerConfig
from .hub_model import HubModel
from .model_card import training_facts
from .trainer import SamplerTrainer


def open_hub_model(config: SamplerConfig) -> HubModel | None:
    """The repository that ``config`` names, made or checked before a model is loaded; None where nothing is pushed.

    Raises:
        ValueError: no token or right to write, or a repository that holds something else.
    """
    if not config.push_to_hub:
        return None
    hub = HubModel(str(config.hub_model_id), private=bool(config.hub_private_repo))
    # one process is enough, and the Hub counts requests
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

"""What the training scripts share: exit codes, and what is written once the training is over."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ubgen_pipeline.class_prompts import ClassPrompt
from ubgen_pipeline.folder_lock import writing_into
from ubgen_pipeline.settings_parser import parse_settings, run_command

from .hub_push import HubModel
from .sampler_trainer import SamplerTrainer
from .training_card import write_training_card
from .training_push import TrainingPush


def run_training(
    train: Callable[[Any], Path],
    config_class: type,
    argv: Sequence[str] | None,
    *,
    prog: str,
    description: str,
    trained: str = "LoRA",
) -> int:
    """Parse ``argv`` and train; returns the exit code: 2 for a bad setting, 1 for a number that is not finite.

    ``trained`` is what the last line says was saved.
    """

    def body(argv: Sequence[str]) -> int:
        config = parse_settings(config_class, argv, prog=prog, description=description.splitlines()[0])
        try:
            with writing_into(str(config.output_dir), int(os.environ.get("RANK", 0))):
                print(f"{trained} saved in {train(config)}")
        except FloatingPointError as error:
            print(f"ubgen: error: {error}", file=sys.stderr)
            return 1
        return 0

    return run_command(body, argv)


def train_and_write(
    trainer: SamplerTrainer,
    prompts: Sequence[ClassPrompt],
    method: str,
    checkpoint: str | None,
    hub: HubModel | None = None,
) -> Path:
    """Train, from ``checkpoint`` if there is one, then write weights, state and card; returns their folder.

    Args:
        method: a sentence of Markdown on how it trains, for the card.
        hub: where checkpoints and the result are pushed to, if anywhere.
    """
    push = TrainingPush(hub, trainer, prompts, method)
    folder = trainer.train_and_save(checkpoint)
    write_training_card(trainer, prompts, method)
    push.finish()
    return folder

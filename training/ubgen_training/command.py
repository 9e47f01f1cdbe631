"""What the training scripts share: exit codes, what is checked first, and what is written once training is over."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ubgen_pipeline.commands.settings_parser import parse_settings, run_command
from ubgen_pipeline.files.folder_lock import writing_into
from ubgen_pipeline.prompts.class_prompts import ClassPrompt

from .checkpoints.folders import find_checkpoint
from .reward_training.config import SamplerConfig
from .reward_training.hub_model import HubModel
from .reward_training.hub_push import TrainingPush, open_hub_model
from .reward_training.model_card import write_training_card
from .reward_training.trainer import SamplerTrainer
from .reward_training.training_inputs import check_writable, load_prompts
from .rewards.reward_functions import check_reward_weights


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


class TrainingStart(NamedTuple):
    """What a training has before any model is loaded: checkpoint to go on from, repository to push to, classes."""

    checkpoint: str | None
    hub: HubModel | None
    prompts: list[ClassPrompt]
    class_names: list[str]


def start_training(config: SamplerConfig) -> TrainingStart:
    """Check all of ``config`` that can be checked without a model.

    Raises:
        ValueError: a setting that cannot work.
    """
    checkpoint = find_checkpoint(config.resume_from_checkpoint, str(config.output_dir))
    check_writable(str(config.output_dir))
    hub = open_hub_model(config)
    check_reward_weights(config.reward_funcs, config.reward_weights)
    prompts = load_prompts(config)
    return TrainingStart(checkpoint, hub, prompts, [prompt.name for prompt in prompts])


def train_and_write(trainer: SamplerTrainer, start: TrainingStart, method: str) -> Path:
    """Train, from the checkpoint if there is one, then write weights, state and card; returns their folder.

    Args:
        method: a sentence of Markdown on how it trains, for the card.
    """
    push = TrainingPush(start.hub, trainer, start.prompts, method)
    folder = trainer.train_and_save(start.checkpoint)
    write_training_card(trainer, start.prompts, method)
    push.finish()
    return folder

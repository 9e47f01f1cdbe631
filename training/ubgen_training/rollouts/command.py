"""What the commands of trainings on rollouts share: from settings to a saved LoRA."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainerCallback

from ubgen_pipeline.family import Family

from ..reward_training.build_rewards import build_rewards, probe_rewards
from ..reward_training.command import build_sampler, start_training, train_and_write
from ..sampler.sampler_model import SamplerModel
from .config import RolloutConfig
from .trainer import RolloutTrainer

Config = TypeVar("Config", bound=RolloutConfig)


def train_on_rollouts(
    config: Config,
    sampler_type: type[SamplerModel],
    trainer_type: type[RolloutTrainer],
    prepare: Callable[[Config, Family], None],
    card_method: Callable[[Config], str],
    callbacks: Sequence[TrainerCallback] = (),
    **settings: Any,
) -> Path:
    """Train as ``config`` says and save the LoRA; returns its folder.

    Args:
        prepare: called with the loaded pipeline; sets its scheduler, and what ``config`` leaves out.
        card_method: a sentence of Markdown on how it trains, for the model card.
        callbacks: besides the trainer's own.
        settings: handed to ``sampler_type``.

    Raises:
        ValueError: a setting that cannot work, found before any training.
        FloatingPointError: a reward or the loss became NaN or infinite.
    """
    start = start_training(config)
    encoder, rewards, heldout = build_rewards(config, start.class_names)
    sampler = build_sampler(
        config, start.prompts, sampler_type, prepare=lambda pipeline: prepare(config, pipeline), **settings
    )
    trainer = trainer_type(
        sampler,
        config,
        start.class_names,
        rewards,
        encoder,
        heldout_reward_funcs=heldout,
        callbacks=list(callbacks),
    )
    height, width = sampler.image_size
    probe = {"height": height, "width": width, "encoder": encoder, "device": config.scoring_device}
    probe_rewards([*rewards, *heldout], start.class_names, **probe, differentiable=False)
    return train_and_write(trainer, start, card_method(config))


def held_against(config: RolloutConfig) -> str:
    """What a sample's reward is compared with, for the model card."""
    return "others of their group" if config.advantages == "group" else "recent ones of their class"

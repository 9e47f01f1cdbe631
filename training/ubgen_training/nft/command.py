"""Fine-tune a text-to-image model's LoRA from class names by the forward process, with any rewards.

    accelerate launch -m ubgen_training.nft --config SETTINGS.yaml --output_dir out
    python -m ubgen_training.nft --class_names circle star --reward_funcs jpeg_size --num_inference_steps 10

Settings are those of ``NFTConfig``, as flags or in a YAML file; ``--help`` lists them.
"""

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from ubgen_pipeline.family import Family
from ubgen_pipeline.models.loading import set_scheduler

from ..command import run_training
from ..rollouts.command import held_against, train_on_rollouts
from .forward_sampler import ForwardSampler
from .nft_config import NFTConfig
from .nft_trainer import NFTTrainer


def train(config: NFTConfig, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Train as ``config`` says and save the LoRA; returns its folder.

    Args:
        callbacks: besides the trainer's own.

    Raises:
        ValueError: a setting that cannot work, found before any training.
        FloatingPointError: a reward or the loss became NaN or infinite.
    """
    return train_on_rollouts(config, ForwardSampler, NFTTrainer, draw_without_guidance, card_method, callbacks)


def draw_without_guidance(config: NFTConfig, pipeline: Family) -> None:
    """Give the pipeline the scheduler asked for, and leave guidance out where no scale is asked for: training takes
    none, and what is learnt without it makes up for it."""
    if config.scheduler is not None:
        set_scheduler(pipeline, config.scheduler)
    if config.guidance_scale is None and pipeline.guidance == "classifier-free":
        config.guidance_scale = 1.0


def card_method(config: NFTConfig) -> str:
    """A sentence of Markdown on how ``config`` trains, for the model card."""
    name, number = {"nft": ("DiffusionNFT", "2509.16117"), "awm": ("AWM", "2509.25050")}[config.objective]
    return (
        f"Weights trained by the forward process ([{name}](https://arxiv.org/abs/{number})) on the rewards below, "
        f"samples being held against {held_against(config)}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and train; a bad setting prints one line and gives exit code 2, a number that is not finite 1."""
    return run_training(train, NFTConfig, argv, prog=f"python -m {__package__}", description=__doc__)

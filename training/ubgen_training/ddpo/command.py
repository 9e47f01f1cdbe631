"""Fine-tune a text-to-image model's LoRA from class names by policy gradient, with any rewards.

    accelerate launch -m ubgen_training.ddpo --config SETTINGS.yaml --output_dir out
    python -m ubgen_training.ddpo --class_names circle star --reward_funcs jpeg_size --num_inference_steps 10

Settings are those of ``DDPOConfig``, as flags or in a YAML file; ``--help`` lists them.
"""

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from ubgen_pipeline.family import Family
from ubgen_pipeline.models.loading import set_scheduler
from ubgen_pipeline.scheduler_noise import is_flow_scheduler

from ..command import run_training
from ..reward_training.command import NOISE_PREDICTIONS
from ..rollouts.command import held_against, train_on_rollouts
from .ddpo_config import NOISE_DYNAMICS, DDPOConfig
from .ddpo_trainer import DDPOTrainer
from .flow_dynamics import FLOW_DYNAMICS, StochasticFlowScheduler
from .policy_sampler import PolicySampler


def train(config: DDPOConfig, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Train as ``config`` says and save the LoRA; returns its folder.

    Args:
        callbacks: besides the trainer's own.

    Raises:
        ValueError: a setting that cannot work, found before any training.
        FloatingPointError: a reward or the loss became NaN or infinite.
    """
    reduction = config.log_probability
    return train_on_rollouts(
        config, PolicySampler, DDPOTrainer, set_dynamics, card_method, callbacks, log_probability=reduction
    )


def set_dynamics(config: DDPOConfig, pipeline: Family) -> None:
    """Give the pipeline the scheduler whose steps ``config`` asks for; what it leaves out becomes the model's kind's.

    Raises:
        ValueError: dynamics of the other kind of model, or a model whose steps have no density.
    """
    scheduler = pipeline.scheduler
    is_flow = is_flow_scheduler(scheduler)
    if not is_flow and scheduler.config.get("prediction_type") not in NOISE_PREDICTIONS:
        raise ValueError(
            f"dynamics cannot be chosen for this model, whose steps ({type(scheduler).__name__}) have no"
            " log-probability; train it with train_ubgen.py, or give another model."
        )
    known = FLOW_DYNAMICS if is_flow else NOISE_DYNAMICS
    if config.dynamics not in (None, *known):
        kind = "velocities (flow matching)" if is_flow else "noise"
        raise ValueError(
            f"dynamics is {config.dynamics!r}, and the model predicts {kind}; choose one of {', '.join(known)}."
        )
    config.take_dynamics(known[0])
    assert config.dynamics is not None
    if is_flow:
        pipeline.scheduler = StochasticFlowScheduler.like(scheduler, config.dynamics)
    else:
        set_scheduler(pipeline, config.dynamics)


def card_method(config: DDPOConfig) -> str:
    """A sentence of Markdown on how ``config`` trains, for the model card."""
    return (
        "Weights trained by policy gradient ([DDPO](https://arxiv.org/abs/2305.13301)) on the rewards below, samples "
        f"being held against {held_against(config)}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and train; a bad setting prints one line and gives exit code 2, a number that is not finite 1."""
    return run_training(train, DDPOConfig, argv, prog=f"python -m {__package__}", description=__doc__)

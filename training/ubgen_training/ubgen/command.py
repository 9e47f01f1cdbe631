"""Fine-tune a text-to-image model's LoRA from class names with the ubGen loss.

    accelerate launch -m ubgen_training.ubgen --config SETTINGS.yaml --output_dir out
    python -m ubgen_training.ubgen --model_name_or_path mini --class_names circle star --max_steps 2

Settings are those of ``UbGenConfig``, as flags or in a YAML file; ``--help`` lists them.
"""

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from ..command import run_training
from ..reward_training.build_rewards import build_rewards, probe_rewards
from ..reward_training.command import build_sampler, start_training, train_and_write
from ..sampler.gradient_steps import gradient_strategy
from ..sampler.sampler_model import SamplerModel
from .ubgen_config import UbGenConfig
from .ubgen_trainer import UbGenTrainer


def train(config: UbGenConfig, callbacks: Sequence[TrainerCallback] = ()) -> Path:
    """Train as ``config`` says and save the LoRA; returns its folder.

    Args:
        callbacks: besides the trainer's own.

    Raises:
        ValueError: a setting that cannot work, found before any training.
        FloatingPointError: a reward or the loss became NaN or infinite.
    """
    start = start_training(config)
    names = start.class_names
    if len(names) < 2 and config.adversarial_weight > 0:
        raise ValueError(
            f"class_names holds {names!r} only; the adversarial term sets an image against a name of another class: "
            "give two or more, or --adversarial_weight 0."
        )
    sampler = build_sampler(config, start.prompts, SamplerModel, decode_batch_size=config.reward_micro_batch_size)
    encoder, rewards, heldout = build_rewards(config, names, with_clip=config.adversarial_weight > 0)
    settings = {"heldout_reward_funcs": heldout, "callbacks": list(callbacks)}
    trainer = UbGenTrainer(sampler, config, names, rewards, encoder, **settings)
    height, width = sampler.image_size
    probe = {"height": height, "width": width, "encoder": encoder, "device": config.device}
    probe_rewards(rewards, names, **probe)
    probe_rewards(heldout, names, **probe, differentiable=False)
    return train_and_write(trainer, start, card_method(config))


def card_method(config: UbGenConfig) -> str:
    """A sentence of Markdown on how ``config`` trains, for the model card."""
    adversarial = "" if config.adversarial_weight == 0 else " and an adversarial term"
    strategy = gradient_strategy(config.gradient_strategy).__name__
    return (
        f"Weights trained with [ubGen's method](https://arxiv.org/abs/2412.10831): the rewards below{adversarial} "
        f"back-propagated through the sampling steps that the strategy `{strategy}` chooses. It aims at images of the "
        "classes with less of the bias of backgrounds, textures and contexts."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and train; a bad setting prints one line and gives exit code 2, a number that is not finite 1."""
    return run_training(train, UbGenConfig, argv, prog=f"python -m {__package__}", description=__doc__)

"""What the commands of both trainings from rewards do before a trainer is built, and from its training to the card.

A command calls :func:`start_training`, which needs no model, then :func:`build_sampler`, builds its rewards and its
trainer, and ends with :func:`train_and_write`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from ubgen_pipeline.commands.console import say
from ubgen_pipeline.family import Family, check_effects
from ubgen_pipeline.models.families import family_of
from ubgen_pipeline.models.loading import load_pipeline, set_scheduler
from ubgen_pipeline.prompts.class_prompts import ClassPrompt

from ..checkpoints.folders import find_checkpoint
from ..command import check_writable
from ..lora.adapter import LoraSettings, lora_targets
from ..lora.lora_files import load_lora_into
from ..rewards.reward_functions import check_reward_weights
from ..sampler.prompt_features import prompt_cache
from ..sampler.sampler_model import SamplerModel, SamplingSettings
from .config import SamplerConfig
from .hub_push import HubModel, TrainingPush, open_hub_model
from .model_card import write_training_card
from .trainer import SamplerTrainer
from .training_prompts import load_prompts

# what schedulers call the prediction of a model that does not walk along velocities
NOISE_PREDICTIONS = ("epsilon", "v_prediction", "sample")
# left out, they are the model's own
DRAWING_SETTINGS = ("num_inference_steps", "guidance_scale")
Sampler = TypeVar("Sampler", bound=SamplerModel)


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


def build_sampler(
    config: SamplerConfig,
    prompts: Sequence[ClassPrompt],
    sampler_type: type[Sampler],
    *,
    decode_batch_size: int | None = None,
    prepare: Callable[[Family], None] | None = None,
    **settings: Any,
) -> Sampler:
    """The sampler of that type, with the model, scheduler and LoRA that ``config`` names.

    What ``config`` leaves out of how samples are drawn becomes the model's own, and is said.

    Args:
        decode_batch_size: of :class:`SamplingSettings`.
        prepare: called with the loaded pipeline before anything is taken from it; it sets the scheduler, too.
        settings: handed to ``sampler_type``.

    Raises:
        ValueError: a model that cannot be loaded, a scheduler of another kind, guidance that has no effect on the
            model, steps that do not fit its number, a prompt that is too long, or a LoRA that does not fit.
    """

    def check(model: Family) -> None:
        check_effects(model, guidance_scale=config.guidance_scale)
        model.latent_shape(config.height, config.width)

    dtype = torch.float16 if config.fp16 else torch.bfloat16 if config.bf16 else torch.float32
    pipeline = load_pipeline(
        config.model_name_or_path,
        scheduler=config.scheduler if prepare is None else None,
        revision=config.model_revision,
        variant=config.variant,
        torch_dtype=dtype,
        argument="model_name_or_path",
        check=check,
    )
    if prepare is not None:
        prepare(pipeline)
    take_defaults(config, pipeline)
    assert config.num_inference_steps is not None and config.guidance_scale is not None
    texts = [prompt.prompt for prompt in prompts]
    pipeline.check_prompt_lengths(texts, [prompt.name for prompt in prompts])
    sampler = sampler_type(
        pipeline,
        texts,
        LoraSettings(config.lora_rank, config.lora_alpha, lora_targets(config.lora_target_modules)),
        SamplingSettings(
            config.num_inference_steps,
            config.guidance_scale,
            config.height,
            config.width,
            decode_batch_size,
            config.step_noise,
        ),
        seed=config.seed,
        train_method=config.train_method,
        prompt_cache=prompt_cache(config, dtype),
        **settings,
    )
    if config.initial_lora is not None:
        load_lora_into(pipeline, config.initial_lora, argument="initial_lora")
    return sampler


def take_defaults(config: SamplerConfig, pipeline: Family) -> None:
    """Fill in the scheduler, steps and guidance that ``config`` leaves out, as the model's family has them.

    Stable Diffusion 1.x and 2.x are trained as in the paper, under DDPM.

    Raises:
        ValueError: guidance that has no effect on the model, or settings that do not fit its number of steps.
    """
    check_effects(pipeline, guidance_scale=config.guidance_scale)
    is_noise = pipeline.scheduler.config.get("prediction_type") in NOISE_PREDICTIONS
    if config.scheduler is None and is_noise and family_of(type(pipeline).__name__) == "sd":
        # a checkpoint's settings name it
        config.scheduler = "ddpm"
        set_scheduler(pipeline, config.scheduler)
    own = {name: getattr(pipeline, f"default_{name}") for name in DRAWING_SETTINGS}
    taken = " and ".join(f"{name} {value:g}" for name, value in own.items() if getattr(config, name) is None)
    if taken and config.should_log:
        say(f"{config.model_name_or_path}: {taken}, the model's own")
    config.take_sampling(**own)


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

"""Train a text-to-image model's denoiser, or a LoRA on it, on labelled images with any loss weighting.

    accelerate launch -m ubgen_training.denoising --dataset DATASET --weighting debias --output_dir OUT
    python -m ubgen_training.denoising --config SETTINGS.yaml --dataset DATASET

Settings are those of ``DenoiserConfig``, as flags or in a YAML file; ``--help`` lists them.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from ubgen_pipeline.models.loading import load_pipeline

from ..checkpoints.folders import find_checkpoint
from ..command import check_writable, run_training
from ..lora.adapter import LoraSettings, lora_targets
from ..sampler.prompt_features import prompt_cache
from .denoiser_config import DenoiserConfig
from .denoiser_model import DenoiserModel
from .denoiser_trainer import DenoiserTrainer
from .flow_loss import FlowLoss
from .pixel_rows import load_images


def train(config: DenoiserConfig) -> Path:
    """Train as ``config`` says and save the weights; returns their folder.

    Raises:
        ValueError: a setting that cannot work, found before any training.
        FloatingPointError: the gradient became NaN or infinite.
    """
    checkpoint = find_checkpoint(config.resume_from_checkpoint, str(config.output_dir))
    check_writable(str(config.output_dir))
    images, prompts = load_images(config)
    is_frozen_16_bit = config.train_method == "lora" and (config.bf16 or config.fp16)
    dtype = (torch.float16 if config.fp16 else torch.bfloat16) if is_frozen_16_bit else torch.float32
    pipeline = load_pipeline(
        config.model_name_or_path,
        revision=config.model_revision,
        variant=config.variant,
        torch_dtype=dtype,
        argument="model_name_or_path",
        check=lambda model: model.latent_shape(config.height, config.width),
    )
    pipeline.check_prompt_lengths(prompts, list(images.class_names))
    model = DenoiserModel(
        pipeline,
        prompts,
        train_method=config.train_method,
        weighting=config.weighting,
        target=config.target,
        flow=config.flow_weighting(),
        size=(config.height, config.width),
        lora=LoraSettings(config.lora_rank, config.lora_alpha, lora_targets(config.lora_target_modules)),
        empty_prompt_share=config.empty_prompt_share,
        seed=config.seed,
        prompt_cache=prompt_cache(config, dtype),
    )
    # a checkpoint's settings name what was taken
    if isinstance(model.loss, FlowLoss):
        config.weighting_scheme = model.loss.weighting.scheme
    else:
        config.weighting = model.loss.weighting
    return DenoiserTrainer(model, config, images).train_and_save(checkpoint)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and train; a bad setting prints one line and gives exit code 2, a number that is not finite 1."""
    return run_training(
        train,
        DenoiserConfig,
        argv,
        prog=f"python -m {__package__}",
        description=__doc__,
        trained="weights",
    )

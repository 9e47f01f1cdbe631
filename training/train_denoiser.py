"""Train a text-to-image model's UNet, or a LoRA on it, to denoise labelled images with any loss weighting.

    accelerate launch training/train_denoiser.py --dataset DATASET --weighting debias --output_dir OUT
    python training/train_denoiser.py --config training/configs/mini_denoiser.yaml --dataset DATASET

Settings are those of ``DenoiserConfig``, as flags or in a YAML file; ``--help`` lists them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.checkpoints.folders import find_checkpoint
from ubgen_training.command import check_writable, run_training
from ubgen_training.denoising.denoiser_config import DenoiserConfig
from ubgen_training.denoising.denoiser_model import DenoiserModel
from ubgen_training.denoising.denoiser_trainer import DenoiserTrainer
from ubgen_training.denoising.pixel_rows import load_images
from ubgen_training.sampler.sampler_model import LoraSettings


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
    pipeline = load_pipeline(config.model_name_or_path, revision=config.model_revision, torch_dtype=dtype)
    pipeline.check_prompt_lengths(prompts, list(images.class_names))
    model = DenoiserModel(
        pipeline,
        prompts,
        train_method=config.train_method,
        weighting=config.weighting,
        target=config.target,
        lora=LoraSettings(config.lora_rank, config.lora_alpha, tuple(config.lora_target_modules)),
        empty_prompt_share=config.empty_prompt_share,
        seed=config.seed,
    )
    return DenoiserTrainer(model, config, images).train_and_save(checkpoint)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and train; a bad setting prints one line and gives exit code 2, a number that is not finite 1."""
    return run_training(
        train, DenoiserConfig, argv, prog="train_denoiser.py", description=__doc__ or "", trained="weights"
    )


if __name__ == "__main__":
    sys.exit(main())

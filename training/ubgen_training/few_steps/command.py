"""Distil a text-to-image model, with its LoRA, into a second LoRA that draws in a few steps without guidance.

    ubgen generate --model BASE --lora LORA … --output-dir DATASET
    accelerate launch -m ubgen_training.few_steps --model_name_or_path BASE --lora LORA --dataset DATASET \\
      --output_dir FEW
    ubgen generate --model BASE --lora LORA --preset hyper-8 --few-step-lora FEW …

Settings are those of ``FewStepConfig``, as flags or in a YAML file; ``--help`` lists them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ubgen_pipeline.inference.prompt_cache import lora_facts
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.models.lora_loading import fuse_loras
from ubgen_pipeline.models.loras import as_loras
from ubgen_pipeline.models.sources import hub_commit

from ..checkpoints.folders import find_checkpoint
from ..command import check_writable, run_training
from ..denoising.pixel_rows import load_images
from ..lora.adapter import LoraSettings, lora_targets
from ..lora.lora_files import load_lora_into
from ..sampler.prompt_features import prompt_cache
from .few_step_config import FewStepConfig
from .few_step_model import FewStepModel, FewStepTrainer


def train(config: FewStepConfig) -> Path:
    """Train as ``config`` says and save the LoRA; returns its folder.

    Raises:
        ValueError: a setting that cannot work, found before any training.
        FloatingPointError: the gradient became NaN or infinite.
    """
    checkpoint = find_checkpoint(config.resume_from_checkpoint, str(config.output_dir))
    check_writable(str(config.output_dir))
    images, prompts = load_images(config)
    pipeline = load_pipeline(
        config.model_name_or_path,
        lora=config.lora,
        revision=config.model_revision,
        variant=config.variant,
        lora_revision=config.lora_revision,
        argument="model_name_or_path",
    )
    pipeline.check_prompt_lengths(prompts, list(images.class_names))
    if config.lora is not None:
        # in float32, where fusing loses nothing
        fuse_loras(pipeline)
    dtype = torch.float16 if config.fp16 else torch.bfloat16 if config.bf16 else torch.float32
    pipeline.to(dtype=dtype)
    # fused before they were rounded, which no other command does
    known = [
        replace(lora, revision=hub_commit(lora.source, lora.revision))
        for lora in as_loras(config.lora, config.lora_revision if config.lora else None)
    ]
    loras = (*lora_facts(known), "fused") if known else (None,)
    model = FewStepModel(
        pipeline,
        prompts,
        lora=LoraSettings(config.lora_rank, config.lora_alpha, lora_targets(config.lora_target_modules)),
        guidance_scale=config.guidance_scale,
        num_segments=config.num_segments,
        num_teacher_steps=config.num_teacher_steps,
        huber_scale=config.huber_scale,
        seed=config.seed,
        prompt_cache=prompt_cache(config, dtype, loras),
    )
    if config.initial_lora is not None:
        load_lora_into(model.pipeline, config.initial_lora, argument="initial_lora")
    return FewStepTrainer(model, config, images).train_and_save(checkpoint)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and train; a bad setting prints one line and gives exit code 2, a number that is not finite 1."""
    return run_training(train, FewStepConfig, argv, prog=f"python -m {__package__}", description=__doc__)

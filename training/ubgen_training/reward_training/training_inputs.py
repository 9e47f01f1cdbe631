"""What every training command builds from its settings before a trainer: folder, prompts, images and sampler."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from ubgen_pipeline.dataset.labelled_images import LabelledImages, load_labelled_images
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.prompts.class_prompts import ClassPrompt, class_prompts, load_class_names

from ..denoising.latent_training_config import LatentTrainingConfig
from ..sampler.sampler_model import LoraSettings, SamplerModel, SamplingSettings
from .config import SamplerConfig

Sampler = TypeVar("Sampler", bound=SamplerModel)


def check_writable(folder: str) -> None:
    """Raise ``ValueError`` unless ``folder`` exists, or can be made, and takes files."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"output_dir {folder!r} cannot be written ({error.strerror or error}); choose another folder."
        ) from error


def load_prompts(config: SamplerConfig) -> list[ClassPrompt]:
    """The classes of ``class_names`` or ``classes``, with their prompts, in label order.

    Raises:
        ValueError: none or both are given, or a name cannot be used.
    """
    if not config.class_names and not config.classes:
        raise ValueError("class_names is empty; give --class_names A B ... or --classes FILE_OR_BUILT_IN_LIST.")
    if config.class_names and config.classes:
        raise ValueError(f"both class_names and classes ({config.classes!r}) are given; give one of them.")
    return class_prompts(load_class_names(config.class_names or str(config.classes)), config.prompt_template)


def load_images(config: LatentTrainingConfig) -> tuple[LabelledImages, list[str]]:
    """The dataset's images and the prompts of its classes, in label order.

    Raises:
        ValueError: the dataset cannot be read, or a class's name cannot be used.
    """
    images = load_labelled_images(
        config.dataset, split=config.split, streaming=config.streaming, revision=config.revision
    )
    names = load_class_names(list(images.class_names))
    return images, [prompt.prompt for prompt in class_prompts(names, config.prompt_template)]


def build_sampler(
    config: SamplerConfig,
    prompts: Sequence[ClassPrompt],
    sampler_type: type[Sampler],
    sampling: SamplingSettings,
    **settings: Any,
) -> Sampler:
    """The sampler of that type, with the model, scheduler and LoRA that ``config`` names.

    Args:
        sampling: how it draws.
        settings: handed to ``sampler_type``.

    Raises:
        ValueError: a model that cannot be loaded, a prompt that is too long, or a LoRA that does not fit.
    """
    dtype = torch.float16 if config.fp16 else torch.bfloat16 if config.bf16 else torch.float32
    pipeline = load_pipeline(
        config.model_name_or_path, scheduler=config.scheduler, revision=config.model_revision, torch_dtype=dtype
    )
    texts = [prompt.prompt for prompt in prompts]
    pipeline.check_prompt_lengths(texts, [prompt.name for prompt in prompts])
    return sampler_type(
        pipeline,
        texts,
        LoraSettings(config.lora_rank, config.lora_alpha, tuple(config.lora_target_modules)),
        sampling,
        seed=config.seed,
        train_method=config.train_method,
        **settings,
    )

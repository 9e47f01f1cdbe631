"""Learn one new word from a few images, with everything else of the model frozen.

    python -m ubgen_training.textual_inversion --config SETTINGS.yaml --output_dir out
    python -m ubgen_training.textual_inversion --images FOLDER --token "<crane>" --initial_word bird

Settings are those of ``TextualInversionConfig``, as flags or in a YAML file; ``--help`` lists them.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ubgen_pipeline.models.loading import load_pipeline

from ..checkpoints.folders import find_checkpoint
from ..command import check_writable, run_training
from .example_images import read_images
from .textual_inversion_config import TextualInversionConfig
from .textual_inversion_trainer import TextualInversionTrainer
from .token_model import TokenModel, encode_images


def train(config: TextualInversionConfig) -> Path:
    """Train as ``config`` says and save the embedding and samples; returns its folder.

    Raises:
        ValueError: a setting or an image that cannot be used, found before any training.
        FloatingPointError: the loss became NaN or infinite.
    """
    checkpoint = find_checkpoint(config.resume_from_checkpoint, str(config.output_dir))
    check_writable(str(config.output_dir))
    if config.images is None:
        raise ValueError("images is missing; give a folder of images.")
    dtype = torch.float16 if config.fp16 else torch.bfloat16 if config.bf16 else torch.float32
    pipeline = load_pipeline(
        config.model_name_or_path,
        revision=config.model_revision,
        variant=config.variant,
        torch_dtype=dtype,
        argument="model_name_or_path",
    )
    height, width = (side * pipeline.vae_scale_factor for side in pipeline.latent_shape()[-2:])
    images = read_images(config.images, height, width, skip_damaged=config.skip_damaged)
    if config.mirror_images:
        images = torch.cat([images, images.flip(-1)])
    model = TokenModel(
        pipeline, config.token, config.initial_word, config.num_vectors, config.templates, seed=config.seed
    )
    pipeline.to(config.device)
    trainer = TextualInversionTrainer(model, config, encode_images(pipeline, images))
    folder = trainer.train_and_save(checkpoint)
    if config.num_samples and config.should_save:
        model.install()
        pipeline.set_progress_bar_config(disable=True)
        drawn = pipeline(
            [config.token],
            num_images_per_class=config.num_samples,
            seed=config.seed,
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            batch_size=config.per_device_train_batch_size,
            output_type="pt",
        )
        assert not isinstance(drawn, tuple)
        count = min(config.num_samples, len(images))
        rows = [images[:count], drawn.images.float().cpu()[:count]]
        _contact_sheet(rows).save(folder / "samples.png")
    return folder


def _contact_sheet(rows: list[torch.Tensor]) -> Image.Image:
    """Rows of images ``(N, 3, H, W)`` in [0, 1] under each other."""
    lines = [torch.cat(list(row.clamp(0, 1)), dim=2) for row in rows]
    pixels = torch.cat(lines, dim=1).permute(1, 2, 0)
    return Image.fromarray((pixels * 255).round().to(torch.uint8).numpy())


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and train; a bad setting prints one line and gives exit code 2, a number that is not finite 1."""
    return run_training(
        train,
        TextualInversionConfig,
        argv,
        prog=f"python -m {__package__}",
        description=__doc__,
        trained="embedding",
    )

"""Learn one new word from a few images, with everything else of the model frozen.

    python training/train_textual_inversion.py --config training/configs/mini_textual_inversion.yaml --output_dir out
    python training/train_textual_inversion.py --images FOLDER --token "<crane>" --initial_word bird

Settings are those of ``TextualInversionConfig``, as flags or in a YAML file; ``--help`` lists them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ubgen_pipeline.mini.scenes import NOVEL_CLASS_NAMES, scenes
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.checkpoints.folders import find_checkpoint
from ubgen_training.command import check_writable, run_training
from ubgen_training.textual_inversion.textual_inversion_config import TextualInversionConfig
from ubgen_training.textual_inversion.textual_inversion_trainer import TextualInversionTrainer
from ubgen_training.textual_inversion.token_model import TokenModel, encode_images

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


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
    pipeline = load_pipeline(config.model_name_or_path, revision=config.model_revision, torch_dtype=dtype)
    height, width = (side * pipeline.vae_scale_factor for side in pipeline.latent_shape()[-2:])
    images = read_images(config.images, height, width)
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
        count = min(config.num_samples, len(images))
        rows = [images[:count], drawn.images.float().cpu()[:count]]
        _contact_sheet(rows).save(folder / "samples.png")
    return folder


def read_images(source: str, height: int, width: int) -> torch.Tensor:
    """``(N, 3, height, width)`` in [0, 1]: the images of a folder in name order, or rendered novel scenes; cut to
    the model's shape about the centre.

    Raises:
        ValueError: no folder, no images in it, or one that cannot be read.
    """
    if source.startswith("novel:"):
        pictures = _novel_scenes(source)
    else:
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise ValueError(f"images is {source!r}, which is no folder; give a folder of images.")
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"images is {source!r}, which holds no {', '.join(SUFFIXES)}; put images there.")
        pictures = []
        for file in files:
            try:
                pictures.append(Image.open(file).convert("RGB"))
            except (OSError, UnidentifiedImageError) as error:
                raise ValueError(f"images holds {file.name!r}, which could not be read; remove it.") from error
    arrays = [np.asarray(_cut(picture, height, width), np.float32) / 255 for picture in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def _novel_scenes(source: str) -> list[Image.Image]:
    try:
        _, name, number, seed = source.split(":")
        if name not in NOVEL_CLASS_NAMES or int(number) < 1:
            raise ValueError(f"the silhouettes are {', '.join(NOVEL_CLASS_NAMES)}")
        drawn = scenes(int(number), bias=0.0, seed=int(seed), class_names=[name])
    except ValueError as error:
        raise ValueError(f"images is {source!r}; write novel:NAME:NUMBER:SEED. {error}") from error
    return [Image.fromarray(scene.image) for scene in drawn]


def _cut(picture: Image.Image, height: int, width: int) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)


def _contact_sheet(rows: list[torch.Tensor]) -> Image.Image:
    """Rows of images ``(N, 3, H, W)`` in [0, 1] under each other."""
    lines = [torch.cat(list(row.clamp(0, 1)), dim=2) for row in rows]
    pixels = torch.cat(lines, dim=1).permute(1, 2, 0)
    return Image.fromarray((pixels * 255).round().to(torch.uint8).numpy())


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and train; a bad setting prints one line and gives exit code 2, a number that is not finite 1."""
    about = {"prog": "train_textual_inversion.py", "description": __doc__ or ""}
    return run_training(train, TextualInversionConfig, argv, **about, trained="embedding")


if __name__ == "__main__":
    sys.exit(main())

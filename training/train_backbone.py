"""Train an image classifier of timm's on a generated or any other labelled dataset.

    accelerate launch training/train_backbone.py --config training/configs/backbone_resnet50.yaml --dataset DATASET
    python training/train_backbone.py --config training/configs/mini_backbone.yaml --dataset DATASET

Settings are those of ``BackboneConfig``, as flags or in a YAML file; ``--help`` lists them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from ubgen_pipeline.dataset.labelled_images import load_labelled_images
from ubgen_training.backbone.backbone_config import BackboneConfig
from ubgen_training.backbone.backbone_trainer import BackboneTrainer, build_backbone
from ubgen_training.checkpoints.folders import find_checkpoint
from ubgen_training.command import check_writable, run_training


def train(config: BackboneConfig) -> Path:
    """Train as ``config`` says and save the backbone; returns its folder.

    Raises:
        ValueError: a setting that cannot work, found before any training.
        FloatingPointError: the gradient became NaN or infinite.
    """
    checkpoint = find_checkpoint(config.resume_from_checkpoint, str(config.output_dir))
    check_writable(str(config.output_dir))
    images = load_labelled_images(
        config.dataset, split=config.split, streaming=config.streaming, revision=config.revision
    )
    eval_images = None
    if config.eval_dataset is not None:
        eval_images = load_labelled_images(config.eval_dataset, split=config.eval_split)
    model_args = config.model_args if isinstance(config.model_args, dict) else {}
    model = build_backbone(
        config.architecture, len(images.class_names), config.image_size, model_args, seed=config.seed
    )
    trainer = BackboneTrainer(model, config, images, eval_images)
    folder = trainer.train_and_save(checkpoint)
    if eval_images is not None:
        print(f"accuracy on {config.eval_dataset}: {trainer.evaluate()['eval_accuracy']:.4f}")
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and train; a bad setting prints one line and gives exit code 2, a number that is not finite 1."""
    return run_training(
        train, BackboneConfig, argv, prog="train_backbone.py", description=__doc__ or "", trained="backbone"
    )


if __name__ == "__main__":
    sys.exit(main())

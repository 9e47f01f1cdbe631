"""Train an image classifier of timm's on a generated or any other labelled dataset.

    accelerate launch -m ubgen_training.backbone --config SETTINGS.yaml --dataset DATASET
    python -m ubgen_training.backbone --config SETTINGS.yaml --dataset DATASET

Settings are those of ``BackboneConfig``, as flags or in a YAML file; ``--help`` lists them.
"""

from collections.abc import Sequence
from pathlib import Path

from ubgen_pipeline.dataset.labelled_images import load_labelled_images

from ..checkpoints.folders import find_checkpoint
from ..command import check_writable, run_training
from .backbone_config import BackboneConfig
from .backbone_trainer import BackboneTrainer, build_backbone


def train(config: BackboneConfig) -> Path:
    """Train as ``config`` says and save the backbone; returns its folder.

    Raises:
        ValueError: a setting that cannot work, found before any training.
        FloatingPointError: the gradient became NaN or infinite.
    """
    checkpoint = find_checkpoint(config.resume_from_checkpoint, str(config.output_dir))
    check_writable(str(config.output_dir))
    images = load_labelled_images(
        config.dataset,
        split=config.split,
        streaming=config.streaming,
        revision=config.revision,
        skip_damaged=config.skip_damaged,
    )
    eval_images = None
    if config.eval_dataset is not None:
        eval_images = load_labelled_images(
            config.eval_dataset, split=config.eval_split, skip_damaged=config.skip_damaged
        )
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
        train,
        BackboneConfig,
        argv,
        prog=f"python -m {__package__}",
        description=__doc__,
        trained="backbone",
    )

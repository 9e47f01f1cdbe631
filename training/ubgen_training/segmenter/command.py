"""Train a segmenter on a dataset with masks, and measure it on a test set.

    python -m ubgen_training.segmenter --config SETTINGS.yaml --output_dir segmenter
    accelerate launch -m ubgen_training.segmenter --dataset DIR --test_dataset TEST --model nvidia/mit-b0

Settings are those of ``SegmenterConfig``, as flags or in a YAML file; ``--help`` lists them.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from ubgen_evaluation.mask_quality import MaskQuality
from ubgen_pipeline.models.segmenter import BACKGROUND_NAME, Segmenter, build_segmenter

from ..checkpoints.folders import find_checkpoint
from ..command import check_writable, run_training
from .segmenter_config import SegmenterConfig
from .segmenter_data import (
    MaskedImages,
    check_masks,
    load_masked_images,
    map_classes,
    with_masks,
)
from .segmenter_trainer import SegmenterTrainer, SegmenterWithLoss, measure, predicted_masks

RESULTS_FILE = "results.json"


def train(config: SegmenterConfig) -> list[MaskQuality]:
    """Train as ``config`` says and save the segmenter; returns its quality on the test set after every round.

    The last round's segmenter lies in ``output_dir``, the one of round r before it in ``output_dir/round-r``.

    Raises:
        ValueError: a setting or a dataset that cannot work, found before any training.
        FloatingPointError: the loss became NaN or infinite.
    """
    if config.dataset is None:
        raise ValueError("dataset is missing; give a folder, a Hub id, or mini:NUMBER for rendered scenes.")
    output = Path(str(config.output_dir))
    checkpoint = find_checkpoint(config.resume_from_checkpoint, output)
    if checkpoint is not None and config.self_training_rounds:
        raise ValueError("resume_from_checkpoint goes with one round; set self_training_rounds to 0.")
    check_writable(str(output))
    data = load_masked_images(config.dataset, config.split, skip_damaged=config.skip_damaged)
    check_masks(data, 1 + len(data.class_names), "dataset")
    if len(data.rows) < config.per_device_train_batch_size:
        raise ValueError(
            f"dataset holds {len(data.rows)} images, fewer than per_device_train_batch_size"
            f" {config.per_device_train_batch_size}; lower that."
        )
    test = None
    if config.test_dataset is not None:
        test = load_masked_images(config.test_dataset, config.test_split, skip_damaged=config.skip_damaged)
        check_masks(test, 1 + len(test.class_names), "test_dataset")
        test = map_classes(test, data.class_names, "test_dataset")
    results = []
    for number in range(config.self_training_rounds + 1):
        is_last = number == config.self_training_rounds
        folder = output if is_last else output / f"round-{number}"
        segmenter = _train_round(config, data, folder, number, checkpoint)
        if test is not None:
            results.append(measure(segmenter, test, config.image_size, batch_size=config.per_device_eval_batch_size))
        if not is_last:
            masks = predicted_masks(segmenter, data, config.image_size, threshold=config.self_training_threshold)
            data = MaskedImages(with_masks(data.rows, list(masks)), data.class_names)
    figures = [as_figures(quality, data.class_names) for quality in results]
    (output / RESULTS_FILE).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return results


def as_figures(quality: MaskQuality, class_names: Sequence[str]) -> dict[str, object]:
    """The figures as JSON values, IoU by class name; a class that does not occur is None."""
    iou = {
        name: None if value != value else float(value)
        for name, value in zip([BACKGROUND_NAME, *class_names], quality.iou)
    }
    return {**{name: value for name, value in quality._asdict().items() if name != "iou"}, "iou": iou}


def _train_round(
    config: SegmenterConfig, data: MaskedImages, folder: Path, number: int, checkpoint: str | None
) -> Segmenter:
    args = dataclasses.replace(config, output_dir=str(folder))
    segmenter = build_segmenter(config.model, data.class_names, seed=config.seed + number)
    SegmenterTrainer(SegmenterWithLoss(segmenter), args, data).train_and_save(checkpoint)
    return segmenter.eval()


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and train; a bad setting prints one line and gives exit code 2, a number that is not finite 1."""

    def train_and_tell(config: SegmenterConfig) -> Path:
        for number, quality in enumerate(train(config)):
            print(f"round {number}: mIoU {quality.mean_iou:.4f}, without background {quality.mean_foreground_iou:.4f}")
        return Path(str(config.output_dir))

    return run_training(
        train_and_tell,
        SegmenterConfig,
        argv,
        prog=f"python -m {__package__}",
        description=__doc__,
        trained="segmenter",
    )

"""How good masks from attention are: against a segmenter of rendered scenes, and as training data, with the ablation.

    python -m benchmarks.mask_quality --output-dir mask_quality

1. A segmenter, the judge, is trained on rendered scenes without bias, or read from ``--judge``; its own mIoU is
   measured on held-out scenes.
2. The same images are drawn with each setting of the masks (equal seeds), and their masks set against the judge's.
3. Segmenters of one design and length are trained on the drawn images with each setting's masks, and on as many
   rendered scenes of the world that the model learnt; all are tested on rendered scenes.

Writes ``results.json`` and prints a table. The third way of measuring, inverting rendered scenes, is
``benchmarks.mask_sweep``.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PilImage

from ubgen_evaluation.mask_quality import mask_quality
from ubgen_pipeline.mask_settings import IGNORE_LABEL, MaskSettings
from ubgen_pipeline.mini.scenes import CLASS_NAMES
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.models.segmenter import Segmenter, build_segmenter, load_segmenter
from ubgen_training.segmenter.segmenter_config import SegmenterConfig
from ubgen_training.segmenter.segmenter_data import MaskedImages, load_masked_images
from ubgen_training.segmenter.segmenter_trainer import SegmenterTrainer, SegmenterWithLoss, predicted_masks

IMAGE_SIZE = 64
# the world that the mini model was trained on
WORLD_BIAS = 0.95
VARIANTS = ("full", "no class prompt", "no self-attention", "no ignore band")


def variants(settings: MaskSettings) -> dict[str, MaskSettings]:
    """The model's settings, and each part of the method left out."""
    changes = ({}, {"class_prompt": False}, {"self_power": 0}, {"ignore_threshold": settings.threshold})
    return {name: dataclasses.replace(settings, **change) for name, change in zip(VARIANTS, changes, strict=True)}


def draw(pipeline: Any, settings: MaskSettings, options: argparse.Namespace, number: int) -> MaskedImages:
    """``number`` images of each class with masks; equal seeds give equal images, whatever the mask settings."""
    images, masks, labels = [], [], []
    for start in range(0, number, 4):
        output = pipeline(
            list(CLASS_NAMES),
            # a bare name would be its own class prompt
            prompts=[f"a photo of a {name}" for name in CLASS_NAMES],
            num_images_per_class=min(4, number - start),
            seed=options.seed + start,
            num_inference_steps=options.num_inference_steps,
            guidance_scale=options.guidance_scale,
            batch_size=20,
            annotations=["mask"],
            mask_settings=settings,
        )
        images += output.images
        masks += output.masks
        labels += output.labels
    return as_masked_images(images, masks, labels)


def as_masked_images(images: Sequence[PilImage.Image], masks: Sequence[np.ndarray], labels: Sequence[int]) -> Any:
    features = Features({"image": Image(), "mask": Image(), "label": ClassLabel(names=list(CLASS_NAMES))})
    columns = {"image": list(images), "mask": [PilImage.fromarray(mask) for mask in masks], "label": list(labels)}
    return MaskedImages(Dataset.from_dict(columns, features=features), list(CLASS_NAMES))


def train_on(data: MaskedImages, options: argparse.Namespace, folder: Path) -> Segmenter:
    """A small U-Net after ``--steps`` updates."""
    config = SegmenterConfig(
        output_dir=str(folder),
        image_size=IMAGE_SIZE,
        min_crop_scale=1.0,
        colour_change=0.1,
        learning_rate=3e-3,
        warmup_steps=min(100, options.steps // 4),
        per_device_train_batch_size=32,
        max_steps=options.steps,
        save_strategy="no",
        seed=options.seed,
        use_cpu=True,
        disable_tqdm=True,
    )
    segmenter = build_segmenter("mini", data.class_names, seed=options.seed)
    trainer = SegmenterTrainer(SegmenterWithLoss(segmenter), config, data)
    trainer.train()
    trainer.save_model()
    return segmenter.eval()


def figures(predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> dict[str, float]:
    """Quality of masks ``(H, W)``; ``object_iou`` is that of object against background, whatever the class."""
    found, expected = np.stack(predicted), np.stack(truth)
    quality = mask_quality(found, expected, 1 + len(CLASS_NAMES))
    objects = mask_quality(
        *(np.where(masks == IGNORE_LABEL, IGNORE_LABEL, masks > 0) for masks in (found, expected)), 2
    )
    values = {name: value for name, value in quality._asdict().items() if name != "iou"}
    return {**values, "object_iou": float(objects.iou[1])}


def masks_of(data: MaskedImages) -> list[np.ndarray]:
    return [np.asarray(row["mask"]) for row in data.rows]


def measure(segmenter: Segmenter, test: MaskedImages) -> dict[str, float]:
    return figures(list(predicted_masks(segmenter, test, IMAGE_SIZE)), masks_of(test))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mask_quality", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--output-dir", type=Path, default=Path("mask_quality"))
    parser.add_argument("--judge", type=Path, help="folder of a trained segmenter; none: train one")
    parser.add_argument("--images-per-class", type=int, default=100, help="images of the downstream training set")
    parser.add_argument("--judged-per-class", type=int, default=20, help="images set against the judge; 0: no judge")
    parser.add_argument("--test-scenes", type=int, default=500)
    parser.add_argument("--steps", type=int, default=800, help="updates of every segmenter trained")
    parser.add_argument("--num-inference-steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument(
        "--downstream",
        nargs="*",
        default=["rendered", "full", "no ignore band"],
        choices=["rendered", *VARIANTS],
        help="what segmenters are trained on; equal seeds and sizes compare, also where the arms are run one by one",
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"settings": {name: str(value) for name, value in vars(options).items()}}

    def note(name: str, value: Any) -> None:
        results[name] = value
        print(f"{time.strftime('%H:%M:%S')} {name}: {json.dumps(value)}", flush=True)
        (options.output_dir / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

    tests = {
        "unbiased": load_masked_images(f"mini:{options.test_scenes}:9001:0.0"),
        "biased": load_masked_images(f"mini:{options.test_scenes}:9002:{WORLD_BIAS}"),
    }
    pipeline = load_pipeline("mini")
    pipeline.set_progress_bar_config(disable=True)
    masks = variants(pipeline.default_mask_settings())
    if options.judged_per_class:
        judge_images(pipeline, masks, tests, options, note)
    number = options.images_per_class * len(CLASS_NAMES)
    for arm in options.downstream:
        if arm == "rendered":
            name, data = "rendered, biased", load_masked_images(f"mini:{number}:{9003 + options.seed}:{WORLD_BIAS}")
        else:
            name, data = f"generated, {arm}", draw(pipeline, masks[arm], options, options.images_per_class)
        segmenter = train_on(data, options, options.output_dir / name.replace(", ", "-").replace(" ", "-"))
        for test_name, test in tests.items():
            note(f"trained on {name}, tested on {test_name} scenes", measure(segmenter, test))
    print_tables(results)
    return 0


def judge_images(
    pipeline: Any,
    masks: dict[str, MaskSettings],
    tests: dict[str, MaskedImages],
    options: argparse.Namespace,
    note: Callable[[str, Any], None],
) -> None:
    """How good the judge is on rendered scenes, and what it says of each setting's masks of the same images."""
    if options.judge is not None:
        judge = load_segmenter(options.judge)
    else:
        judge = train_on(load_masked_images("mini:8000:71:0.0"), options, options.output_dir / "judge")
    for name, test in tests.items():
        note(f"judge on rendered {name} scenes", measure(judge, test))
    judged: list[np.ndarray] = []
    for name, settings in masks.items():
        data = draw(pipeline, settings, options, options.judged_per_class)
        judged = judged or list(predicted_masks(judge, data, IMAGE_SIZE))
        note(f"against the judge, {name}", figures(masks_of(data), judged))


def print_tables(results: dict[str, Any]) -> None:
    columns = ("mean_iou", "mean_foreground_iou", "object_iou", "scored_share")
    print(f"\n| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, value in results.items():
        if isinstance(value, dict) and "object_iou" in value:
            print(f"| {name} | {' | '.join(f'{value[column]:.3f}' for column in columns)} |")


if __name__ == "__main__":
    sys.exit(main())

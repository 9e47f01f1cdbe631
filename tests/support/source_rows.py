"""Source datasets for the tasks image-to-image and inpainting: rendered scenes with labels and masks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PilImage

from ubgen_pipeline.mini.scenes import scenes

NAMES = ["star", "circle"]


def save_source(
    folder: Path,
    *,
    names: tuple[str, ...] = tuple(NAMES),
    change: Callable[[np.ndarray], np.ndarray] | None = None,
    masks: bool = True,
) -> str:
    """Save four scenes, star and circle in turns, and give the folder.

    Args:
        folder: where to.
        names: of the labels.
        change: applied to each mask, ``(H, W)`` uint8.
        masks: whether there is a column of masks.
    """
    drawn = list(scenes(4, bias=0.0, seed=5, class_names=NAMES))
    labels = [NAMES.index(scene.factors.class_name) for scene in drawn]
    values = [scene.mask.astype(np.uint8) * (1 + label) for scene, label in zip(drawn, labels)]
    columns = {
        "image": [PilImage.fromarray(scene.image) for scene in drawn],
        "label": labels,
        "mask": [PilImage.fromarray(change(value) if change else value) for value in values],
    }
    features = {"image": Image(), "label": ClassLabel(names=list(names)), "mask": Image()}
    if not masks:
        del columns["mask"], features["mask"]
    Dataset.from_dict(columns, features=Features(features)).save_to_disk(str(folder))
    return str(folder)

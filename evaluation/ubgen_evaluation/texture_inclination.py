"""Texture inclination: whether a backbone decides by texture or by shape where they disagree (Geirhos et al. 2019).

The stimuli are cue-conflict images: the shape of one category with the texture of another, 16 categories in all.
Shapes: N stimuli, C classes of the backbone.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ubgen_pipeline.commands.console import say

from .array_checks import check_features, check_same_length

# in alphabetical order, as their folders are
CUE_CONFLICT_CATEGORIES = (
    "airplane",
    "bear",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "car",
    "cat",
    "chair",
    "clock",
    "dog",
    "elephant",
    "keyboard",
    "knife",
    "oven",
    "truck",
)


class TextureInclination(NamedTuple):
    """Shares in [0, 1].

    ``shape_fraction`` and ``texture_fraction`` are of the stimuli whose shape and texture differ; what is missing to
    1 are decisions for neither. ``inclination`` is texture / (shape + texture), NaN where no decision hit either.
    """

    shape_fraction: float
    texture_fraction: float
    inclination: float


def texture_inclination(decisions: ArrayLike, shapes: ArrayLike, textures: ArrayLike) -> TextureInclination:
    """How often a decision follows the texture rather than the shape.

    Stimuli of equal shape and texture say nothing and are left out (80 of the 1,280 published ones).

    Args:
        decisions: ``(N,)`` categories decided for, as names or as numbers.
        shapes: ``(N,)`` category of each stimulus's shape, of the same kind.
        textures: ``(N,)`` category of its texture.

    Raises:
        ValueError: the lengths differ, there is no stimulus whose shape and texture differ, names stand beside
            numbers, or a decision is NaN.
    """
    arrays = {"decisions": np.asarray(decisions), "shapes": np.asarray(shapes), "textures": np.asarray(textures)}
    check_same_length(**arrays)
    kinds = {name: _kind(array, name) for name, array in arrays.items()}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{name} holds {kind}" for name, kind in kinds.items())
        raise ValueError(f"{listed}; give categories as names in all three, or as numbers in all three.")
    decided, shape, texture = arrays.values()
    kept = shape != texture
    if not kept.any():
        raise ValueError("shapes and textures are equal everywhere; give stimuli whose shape and texture differ.")
    shape_hits = int((decided == shape)[kept].sum())
    texture_hits = int((decided == texture)[kept].sum())
    hits, num_kept = shape_hits + texture_hits, int(kept.sum())
    return TextureInclination(
        shape_hits / num_kept, texture_hits / num_kept, texture_hits / hits if hits else float("nan")
    )


def category_probabilities(probabilities: ArrayLike, categories: Mapping[str, Sequence[int]]) -> np.ndarray:
    """The probability of each category: the mean, not the sum, over its classes, so that size does not count.

    Args:
        probabilities: ``(N, C)`` softmax outputs.
        categories: name to its classes, numbers in [0, C).

    Returns:
        ``(N, len(categories))`` in the mapping's order.

    Raises:
        ValueError: NaN, a negative probability (logits?), an empty category, or a class outside [0, C).
    """
    table = check_features(probabilities, "probabilities")
    if (table < 0).any():
        raise ValueError("probabilities holds negative values; give softmax outputs, not logits.")
    for name, classes in categories.items():
        _check_classes(name, classes, table.shape[1])
    return np.stack([table[:, list(classes)].mean(axis=1) for classes in categories.values()], axis=1)


def category_decisions(probabilities: ArrayLike, categories: Mapping[str, Sequence[int]]) -> np.ndarray:
    """``(N,)`` names of the most probable categories; see :func:`category_probabilities`."""
    return np.array(list(categories))[category_probabilities(probabilities, categories).argmax(axis=1)]


def load_categories(file: str | Path, class_ids: Sequence[str] | None = None) -> dict[str, list[int]]:
    """Read which classes of the backbone belong to which category.

    Args:
        file: JSON of ``{category: [class, …]}``; or lines ``category = [n02690373, …]`` as they were published with
            the cue-conflict images: the mapping from MS-COCO, or ``human_categories.py``, whose
            ``category_indices = [404, …]`` count where it has them. A class is a number or a WordNet id. In lines,
            ids outside of the backbone's classes are skipped, and how many is said.
        class_ids: the WordNet id of every class in the backbone's order; default: ImageNet-1k's.

    Raises:
        ValueError: the file cannot be read, a category has no class, or an id is unknown.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8")
        is_published = not text.lstrip().startswith("{")
        raw = _assignments(text) if is_published else json.loads(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} could not be read as categories: {error}") from error
    if not raw:
        raise ValueError(f"{path} holds no categories; write JSON of {{category: [class, …]}}.")
    if class_ids is None:
        class_ids = imagenet_class_ids()
    numbers = {class_id: index for index, class_id in enumerate(class_ids)}
    categories: dict[str, list[int]] = {}
    num_skipped = 0
    for name, classes in raw.items():
        unknown = [item for item in classes if isinstance(item, str) and item not in numbers]
        if is_published and len(unknown) < len(classes):
            num_skipped += len(unknown)
            classes = [item for item in classes if item not in unknown]
        elif unknown:
            raise ValueError(f"{path}: category {name!r} names {unknown[0]!r}, which is no class of the backbone.")
        categories[name] = [numbers[item] if isinstance(item, str) else item for item in classes]
        _check_classes(f"{name} in {path}", categories[name], len(class_ids))
    if num_skipped:
        say(f"{path}: {num_skipped} ids are none of the {len(class_ids)} classes and are skipped")
    return categories


def imagenet_class_ids() -> list[str]:
    """The 1,000 WordNet ids in the order of ImageNet-1k's classes, from timm."""
    from timm.data import ImageNetInfo

    return ImageNetInfo("imagenet-1k").label_names()


def _assignments(text: str) -> dict[str, list[Any]]:
    """Lines ``name = [..]``, also over several lines, of numbers or of ids with or without quotes."""
    found = re.findall(r"^\s*(\w+)\s*=\s*\[([\s\w,'\"]*)\]", text, re.MULTILINE)
    lists = [(name, re.findall(r"\w+", items)) for name, items in found]
    # `indices = []` of a program is no category
    read = {name: [int(item) if item.isdecimal() else item for item in items] for name, items in lists if items}
    indices = {name.removesuffix("_indices"): items for name, items in read.items() if name.endswith("_indices")}
    return {name: indices.get(name, items) for name, items in read.items() if not name.endswith("_indices")} | indices


def _check_classes(name: str, classes: Sequence[int], num_classes: int) -> None:
    if not len(classes):
        raise ValueError(f"category {name} has no classes; give one or more.")
    wrong = [item for item in classes if not isinstance(item, (int, np.integer)) or not 0 <= item < num_classes]
    if wrong:
        raise ValueError(f"category {name} holds class {wrong[0]!r}, outside [0, {num_classes}).")


def _kind(array: np.ndarray, name: str) -> str:
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; give one category per stimulus, (N,).")
    if array.dtype.kind in "UO" and all(isinstance(item, str) for item in array.tolist()):
        return "names"
    if array.dtype.kind in "iu":
        return "numbers"
    raise ValueError(f"{name} is {array.dtype}; give category names or integers.")

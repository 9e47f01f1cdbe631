"""The published image sets that bias is measured on, read from the folders they are distributed as.

cue conflict   SHAPE/SHAPE1-TEXTURE2.png, 16 categories (Geirhos et al. 2019)
ImageNet-9     VARIANT/val/00_dog/…, nine classes (Xiao et al. 2021); VARIANT is mixed_same, mixed_rand …
FOCUS          annotations.db beside the images (Kattakinda and Feizi 2022)
"""

import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ubgen_pipeline.dataset.class_folders import check_class_folders

from .background_gap import NUM_COARSE_CLASSES
from .texture_inclination import CUE_CONFLICT_CATEGORIES

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FOCUS_CATEGORIES = ("truck", "car", "plane", "ship", "cat", "dog", "horse", "deer", "frog", "bird")
# which attribute values are unusual for a category, by the set's authors; frogs have no usual time
_UNCOMMON_WEATHER = ("foggy", "raining", "snowing")
_UNCOMMON_TIME = ("night",)
_UNCOMMON_LOCATIONS = {
    "truck": ("indoors", "rocks", "snow", "water"),
    "car": ("indoors", "rocks", "snow", "water"),
    "plane": ("forest", "indoors", "rocks", "sand", "snow", "water"),
    "ship": ("forest", "grass", "indoors", "rocks", "sand", "street", "snow"),
    "cat": ("forest", "rocks", "sand", "snow", "water"),
    "dog": ("forest", "rocks", "snow"),
    "horse": ("indoors", "rocks", "street", "snow", "water"),
    "deer": ("indoors", "rocks", "sand", "street", "snow", "water"),
    "frog": ("indoors", "street", "snow"),
    "bird": ("indoors", "street", "snow"),
}


@dataclass(frozen=True)
class CueConflictSet:
    """N files, and the category of each one's shape and texture."""

    files: tuple[Path, ...]
    shapes: tuple[str, ...]
    textures: tuple[str, ...]


@dataclass(frozen=True)
class CoarseSet:
    """N files and the coarse class ``(N,)`` of each, in [0, 9)."""

    files: tuple[Path, ...]
    labels: np.ndarray


@dataclass(frozen=True)
class ContextSet:
    """N files, the category of each, and its number of uncommon attributes ``(N,)``, 0 to 3."""

    files: tuple[Path, ...]
    categories: tuple[str, ...]
    num_uncommon: np.ndarray


def load_cue_conflict(folder: str | Path, categories: Sequence[str] = CUE_CONFLICT_CATEGORIES) -> CueConflictSet:
    """Read the cue-conflict stimuli.

    Args:
        folder: one folder per shape; a file's name says its texture after the dash, ``cat4-truck2.png``.
        categories: names of shapes and textures.

    Raises:
        ValueError: a class folder is missing, empty or unknown, or a file's name says no texture of the categories.
    """
    folder = Path(folder).expanduser()
    names = check_class_folders(folder, tuple(categories))
    files, shapes, textures = [], [], []
    for shape in names:
        for file in _images(folder / shape):
            found = re.fullmatch(r"([a-z]+)\d*-([a-z]+)\d*", file.stem)
            if found is None or found[2] not in categories:
                raise ValueError(f"file {file} does not say its texture; name it like {shape}1-{categories[0]}1.png.")
            if found[1] != shape:
                raise ValueError(f"file {file} has the shape {found[1]!r} in its name, but lies in {shape!r}.")
            files.append(file)
            shapes.append(shape)
            textures.append(found[2])
    return CueConflictSet(tuple(files), tuple(shapes), tuple(textures))


def load_imagenet9(folder: str | Path, variant: str) -> CoarseSet:
    """Read a variant of ImageNet-9.

    Args:
        folder: holds ``VARIANT/val`` with class folders ``00_dog`` to ``08_…``.
        variant: ``mixed_same``, ``mixed_rand``, ``original`` …

    Raises:
        ValueError: there is no such variant, or a class is missing, empty or twice.
    """
    base = Path(folder).expanduser() / variant
    base = base / "val" if (base / "val").is_dir() else base
    names = check_class_folders(base)
    numbers: dict[int, str] = {}
    for name in names:
        number = int(name[:2]) if name[:2].isdigit() else -1
        if not 0 <= number < NUM_COARSE_CLASSES or number in numbers:
            raise ValueError(f"folder {base}: {name!r} is no new class of the nine; name them 00_… to 08_….")
        numbers[number] = name
    missing = sorted(set(range(NUM_COARSE_CLASSES)) - set(numbers))
    if missing:
        raise ValueError(f"folder {base} lacks class {missing[0]:02d} of ImageNet-9's nine.")
    files, labels = [], []
    for number, name in sorted(numbers.items()):
        own = _images(base / name)
        files += own
        labels += [number] * len(own)
    return CoarseSet(tuple(files), np.array(labels))


def load_focus(folder: str | Path) -> ContextSet:
    """Read FOCUS with the number of uncommon attributes of each image.

    Args:
        folder: holds ``annotations.db`` and the images it names.

    Raises:
        ValueError: the annotations cannot be read, an image is missing, or a category is unknown or missing.
    """
    folder = Path(folder).expanduser()
    database = folder / "annotations.db"
    if not database.is_file():
        raise ValueError(f"folder {folder} holds no annotations.db; unpack FOCUS there.")
    try:
        with sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True) as connection:
            query = "SELECT file_name, category, time, weather, locations FROM annotations ORDER BY file_name"
            rows = connection.execute(query).fetchall()
        connection.close()
    except sqlite3.Error as error:
        raise ValueError(f"{database} could not be read as FOCUS's annotations: {error}") from error
    files, categories, counts = [], [], []
    for name, category, time, weather, locations in rows:
        file = folder / str(name).lstrip("./")
        if category not in FOCUS_CATEGORIES:
            raise ValueError(f"{database}: {name} has the category {category!r}, which FOCUS does not have.")
        if not file.is_file():
            raise ValueError(f"{database} names {name} (category {category!r}), which is not in {folder}.")
        files.append(file)
        categories.append(category)
        counts.append(count_uncommon(category, time, weather, str(locations).split(", ")))
    missing = sorted(set(FOCUS_CATEGORIES) - set(categories))
    if missing:
        raise ValueError(f"{database} has no image of category {missing[0]!r} ({len(missing)} are missing).")
    return ContextSet(tuple(files), tuple(categories), np.array(counts))


def count_uncommon(category: str, time: str, weather: str, locations: Sequence[str]) -> int:
    """How many of time, weather and location are unusual for a category: 0 to 3; one unusual place is enough."""
    is_late = time in _UNCOMMON_TIME and category != "frog"
    is_misplaced = any(place in _UNCOMMON_LOCATIONS[category] for place in locations)
    return int(is_late) + int(weather in _UNCOMMON_WEATHER) + int(is_misplaced)


def category_correct(
    predicted: np.ndarray, labels: Sequence[str], categories: Mapping[str, Sequence[int]]
) -> np.ndarray:
    """``(N,)`` bool: whether each predicted class belongs to its image's category.

    Args:
        predicted: ``(N,)`` classes.
        labels: N names of categories.
        categories: the classes of each; see :func:`ubgen_evaluation.load_categories`.

    Raises:
        ValueError: the lengths differ, or a category has no classes.
    """
    if len(predicted) != len(labels):
        raise ValueError(f"predicted holds {len(predicted)} classes for {len(labels)} labels; give one each.")
    missing = sorted(set(labels) - set(categories))
    if missing:
        raise ValueError(f"categories lacks {missing[0]!r}; say which classes belong to it.")
    return np.array([int(one) in categories[name] for one, name in zip(predicted, labels)])


def _images(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"folder {folder} (class {folder.name!r}) holds no image.")
    return files

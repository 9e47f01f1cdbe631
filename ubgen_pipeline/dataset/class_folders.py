"""Folders of images with a folder per class, as torchvision reads them, and files of further columns beside them.

``datasets`` has labels for folders of one depth alone, takes what is called train, test … for splits, be it a class or
a file, and leaves labels out where there is a file ``metadata.csv``, ``.jsonl`` or ``.parquet``. No torch.
"""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..commands.console import say_warning

LABEL_COLUMNS = ("label", "labels", "fine_label", "class")
# what folders of splits are called
SPLITS = ("train", "val", "valid", "validation", "test")
_METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# folders of images that are no classes, in small letters, where a file beside them tells of the images
_NO_CLASSES = (*SPLITS, "data", "images", "imgs", "img", "masks", "labels", "annotations")


def rows_of_class_folders(folder: Path, metadata: Sequence[Path] = ()) -> Any:
    """The images of class folders, labelled and in the order in which torchvision numbers them.

    Args:
        folder: holds a folder per class.
        metadata: files of further columns, as ``datasets`` reads them. Labels are those of the folders, unless the
            files have some of their own, or the images lie in folders that are no classes.

    Returns:
        A ``datasets.Dataset``.
    """
    from datasets import ClassLabel, Dataset, Features, Image

    names, labels = check_class_folders(folder), {}
    for label, name in enumerate(names):
        own = sorted(str(file) for file in (folder / name).rglob("*") if _is_image(file))
        labels |= dict.fromkeys(own, label)
    if metadata:
        return _with_columns(folder, metadata, {os.path.abspath(file): label for file, label in labels.items()}, names)
    features = Features({"image": Image(), "label": ClassLabel(names=list(names))})
    return Dataset.from_dict({"image": list(labels), "label": list(labels.values())}, features=features)


def _with_columns(folder: Path, metadata: Sequence[Path], labels: dict[str, int], names: tuple[str, ...]) -> Any:
    """The rows of files of further columns, with the labels of their images in the order of the images.

    Args:
        folder: of the class folders.
        metadata: the files.
        labels: of every image, by its path, in order.
        names: of the classes.
    """
    from datasets import ClassLabel, Image, load_dataset

    given = {"train": [glob.escape(os.path.abspath(file)) for file in metadata]}
    rows: Any = load_dataset("imagefolder", data_files=given, split="train")
    if not isinstance(rows.features.get("image"), Image):
        return rows
    images = rows.cast_column("image", Image(decode=False))["image"]
    paths = [image and os.path.abspath(image["path"]) for image in images]
    places = {path: place for place, path in enumerate(paths)}
    found = [path for path in labels if path in places]
    used = sorted({names[labels[path]] for path in found})
    if len(used) < 2 or any(name.lower() in _NO_CLASSES for name in used):
        return rows
    told = [(str(label), names[label]) if (label := labels.get(path)) is not None else () for path in paths]
    own = [name for name in LABEL_COLUMNS if name in rows.features]
    if any(str(value) not in says for name in own for value, says in zip(rows[name], told)):
        # labels of another kind
        return rows
    if left := len(labels) - len(found):
        say_warning(
            f"{folder}: {left} of {len(labels)} images have no line in {metadata[0].name}, such as"
            f" {next(path for path in labels if path not in places)}; they are left out"
        )
    rows = rows.remove_columns([name for name in own if name == "label"]).select([places[path] for path in found])
    new = [used.index(names[labels[path]]) for path in found]
    return rows.add_column("label", new).cast_column("label", ClassLabel(names=used))


def rows_of_images(folder: Path) -> Any:
    """The images that lie in a folder, by name and without labels: ``datasets`` would label them with its name."""
    from datasets import Dataset, Features, Image

    files = sorted(str(file) for file in folder.iterdir() if _is_image(file))
    return Dataset.from_dict({"image": files}, features=Features({"image": Image()}))


def metadata_files(folder: Path, above: Path) -> list[Path]:
    """The files of further columns in class folders, or in the folder above that holds them."""
    found = {file for name in _METADATA_FILES for file in [*folder.rglob(name), *above.glob(name)]}
    return sorted(found)


def check_class_folders(folder: Path, class_names: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """The class folders' names, sorted.

    Args:
        folder: holds one folder per class.
        class_names: those that must be there, all and no others; default: any.

    Raises:
        ValueError: there is no folder, one is missing or too many, or one holds no image; folder and class are named.
    """
    if not folder.is_dir():
        raise ValueError(f"folder {folder} does not exist; give one with a folder of images per class.")
    found = tuple(sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")))
    if not found:
        raise ValueError(f"folder {folder} holds no class folders; put each class's images into one of its own.")
    for name in found:
        if not any(map(_is_image, (folder / name).rglob("*"))):
            raise ValueError(f"folder {folder}: class {name!r} has no images; give it some, or move its folder away.")
    if class_names is not None:
        missing, foreign = sorted(set(class_names) - set(found)), sorted(set(found) - set(class_names))
        if missing:
            raise ValueError(f"folder {folder} lacks the class {missing[0]!r} ({len(missing)} classes are missing).")
        if foreign:
            raise ValueError(f"folder {folder} holds {foreign[0]!r}, which is none of the {len(class_names)} classes.")
    return found


def is_class_folders(folder: Path) -> bool:
    """Whether the folder holds class folders only, not parquet files or splits of them."""
    inside = [item for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")]
    if all(item.name in SPLITS for item in inside) or any(
        file.name not in _METADATA_FILES for file in folder.rglob("*.parquet")
    ):
        return False
    return any(map(_is_image, (item for place in inside for item in place.iterdir()))) or not any(inside[0].iterdir())


def is_split_of_images(folder: Path, split: str) -> bool:
    """Whether all that the folder holds are splits, of which this one is images that lie in no class folders."""
    beside = [item.name for item in folder.iterdir() if not item.name.startswith(".")]
    if split not in beside or not all(name in SPLITS for name in beside):
        return False
    inside = [item for item in (folder / split).iterdir() if not item.name.startswith(".")]
    return bool(inside) and all(map(_is_image, inside))


def _is_image(file: Path) -> bool:
    """Whether a file's name says that it is one."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    return file.suffix.lower() in ImageFolder.EXTENSIONS and not file.name.startswith(".") and file.is_file()

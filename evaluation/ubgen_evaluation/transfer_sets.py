"""The eight sets of the transfer protocol, from local folders or the Hub, always as train, validation and test.

A local folder is either ``train/CLASS/…``, ``val/CLASS/…`` (may be absent), ``test/CLASS/…``, or the layout in which
the set is published, which torchvision reads without downloading. Sets without a published split are split here by a
hash of seed and index, and say so in ``is_own_split``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ubgen_pipeline.dataset.class_folders import check_class_folders
from ubgen_pipeline.dataset.labelled_images import load_labelled_images

OWN_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """N images (files or PIL images, one by one) and their labels ``(N,)`` int64."""

    images: Any
    labels: np.ndarray


@dataclass(frozen=True)
class TransferSet:
    """A set to transfer to; ``val`` is None where none is published."""

    name: str
    train: Split
    val: Split | None
    test: Split
    class_names: tuple[str, ...]
    is_own_split: bool = False


def load_transfer_set(name: str, source: Any = None, *, seed: int = 0) -> TransferSet:
    """Open one of the eight sets, or any other of the same layout.

    Args:
        name: ``aircraft``, ``cars``, ``dtd``, ``eurosat``, ``flowers``, ``pets``, ``food101``, ``sun397``; another
            name needs ``train`` and ``test`` folders, or splits on the Hub.
        source: a folder, a Hub id, or a ``datasets.DatasetDict``; a folder holds ``train`` and ``test`` or the
            published layout.
        seed: of the split, where none is published.

    Raises:
        ValueError: nothing there, a file of the published layout is missing, or train and test hold other classes.
    """
    if source is None:
        raise ValueError(f"transfer set {name!r} has no source; give a folder or a Hub id.")
    if not isinstance(source, (str, Path)):
        return _from_datasets(name, source)
    folder = Path(source).expanduser()
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return _from_class_folders(name, folder)
    if folder.is_dir():
        if name not in PUBLISHED:
            raise ValueError(
                f"folder {folder} holds no train and test; make them, or name one of {', '.join(PUBLISHED)}."
            )
        try:
            return PUBLISHED[name](name, folder, seed)
        except (RuntimeError, OSError, KeyError, IndexError) as error:
            raise ValueError(f"folder {folder} is not laid out as {name} is published: {error}") from error
    return _from_datasets(name, str(source))


def _from_class_folders(name: str, folder: Path) -> TransferSet:
    class_names = check_class_folders(folder / "train")
    splits: dict[str, Split | None] = {}
    for part in ("train", "val", "test"):
        if part == "val" and not (folder / "val").is_dir():
            splits[part] = None
            continue
        check_class_folders(folder / part, class_names)
        files, labels = [], []
        for label, class_name in enumerate(class_names):
            own = sorted(f for f in (folder / part / class_name).rglob("*") if f.is_file() and f.name[0] != ".")
            files += own
            labels += [label] * len(own)
        splits[part] = Split(files, np.array(labels))
    train, test = splits["train"], splits["test"]
    assert train is not None and test is not None
    return TransferSet(name, train, splits["val"], test, class_names)


def _from_datasets(name: str, source: Any) -> TransferSet:
    """From a Hub id, or a ``datasets.DatasetDict``."""
    parts, chosen = {"train": load_labelled_images(source, split="train")}, {}
    for part, candidates in {"val": ("validation", "val"), "test": ("test", "validation", "val")}.items():
        for split in candidates:
            try:
                parts[part] = load_labelled_images(source, split=split)
            except ValueError:
                continue
            chosen[part] = split
            break
    if "test" not in parts:
        raise ValueError(f"transfer set {name!r}: {parts['train'].source} has neither a test nor a validation split.")
    names = parts["train"].class_names
    for part, images in parts.items():
        if images.class_names != names:
            raise ValueError(f"transfer set {name!r}: split {part} of {images.source} has other classes than train.")
    # a set with one held-out split is tested on it
    has_val = "val" in chosen and chosen["val"] != chosen["test"]
    val = _rows(parts["val"].rows) if has_val else None
    return TransferSet(name, _rows(parts["train"].rows), val, _rows(parts["test"].rows), names)


def _rows(rows: Any) -> Split:
    return Split(rows, np.array(rows["label"], dtype=np.int64))


class _TorchvisionImages:
    """The images of a torchvision dataset, read one by one."""

    def __init__(self, dataset: Any, indices: np.ndarray | None = None):
        self.dataset = dataset
        self.indices = np.arange(len(dataset)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Any:
        return self.dataset[int(self.indices[position])][0]


def _split(dataset: Any) -> Split:
    return Split(_TorchvisionImages(dataset), _labels(dataset))


def _labels(dataset: Any) -> np.ndarray:
    """Labels without opening an image, from wherever this torchvision class keeps them."""
    for attribute in ("_labels", "targets"):
        if hasattr(dataset, attribute):
            return np.array(getattr(dataset, attribute), dtype=np.int64)
    return np.array([label for _, label in dataset._samples], dtype=np.int64)


def _names(dataset: Any, num_classes: int) -> tuple[str, ...]:
    return tuple(getattr(dataset, "classes", None) or [str(label) for label in range(num_classes)])


def _of_splits(build: Callable[[Path, str], Any], *splits: str | None) -> Callable[[str, Path, int], TransferSet]:
    """A reader of a set with published train, validation (may be None) and test splits."""

    def read(name: str, folder: Path, seed: int) -> TransferSet:
        datasets = [None if split is None else build(folder, split) for split in splits]
        train, val, test = (None if dataset is None else _split(dataset) for dataset in datasets)
        assert train is not None and test is not None
        names = _names(datasets[0], int(train.labels.max()) + 1)
        _check_labels(name, folder, names, train, test)
        return TransferSet(name, train, val, test, names)

    return read


def _of_one(build: Callable[[Path], Any]) -> Callable[[str, Path, int], TransferSet]:
    """A reader of a set without a published split: a fifth of each class becomes the test set."""

    def read(name: str, folder: Path, seed: int) -> TransferSet:
        dataset = build(folder)
        labels = _labels(dataset)
        rng, is_test = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
        for label in np.unique(labels):
            own = rng.permutation(np.flatnonzero(labels == label))
            is_test[own[: max(1, round(OWN_TEST_SHARE * len(own)))]] = True
        parts = [np.flatnonzero(~is_test), np.flatnonzero(is_test)]
        train, test = (Split(_TorchvisionImages(dataset, part), labels[part]) for part in parts)
        names = _names(dataset, int(labels.max()) + 1)
        _check_labels(name, folder, names, train, test)
        return TransferSet(name, train, None, test, names, is_own_split=True)

    return read


def _check_labels(name: str, folder: Path, class_names: tuple[str, ...], train: Split, test: Split) -> None:
    for part, split in (("train", train), ("test", test)):
        missing = sorted(set(range(len(class_names))) - set(split.labels.tolist()))
        if missing:
            raise ValueError(
                f"folder {folder}: the {part} images of {name} lack the class {class_names[missing[0]]!r} "
                f"({len(missing)} classes are missing)."
            )


def _torchvision(kind: str, folder: Path, **arguments: Any) -> Any:
    from torchvision import datasets

    # torchvision looks for the published folder below the root it is given
    root = folder if any(item.is_dir() for item in folder.iterdir()) else folder.parent
    return getattr(datasets, kind)(root=str(root), download=False, **arguments)


PUBLISHED: dict[str, Callable[[str, Path, int], TransferSet]] = {
    "aircraft": _of_splits(lambda f, s: _torchvision("FGVCAircraft", f, split=s), "train", "val", "test"),
    "cars": _of_splits(lambda f, s: _torchvision("StanfordCars", f, split=s), "train", None, "test"),
    "dtd": _of_splits(lambda f, s: _torchvision("DTD", f, split=s), "train", "val", "test"),
    "eurosat": _of_one(lambda f: _torchvision("EuroSAT", f)),
    "flowers": _of_splits(lambda f, s: _torchvision("Flowers102", f, split=s), "train", "val", "test"),
    "pets": _of_splits(lambda f, s: _torchvision("OxfordIIITPet", f, split=s), "trainval", None, "test"),
    "food101": _of_splits(lambda f, s: _torchvision("Food101", f, split=s), "train", None, "test"),
    "sun397": _of_one(lambda f: _torchvision("SUN397", f)),
}

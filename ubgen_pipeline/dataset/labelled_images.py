"""Images and labels of any dataset, for training and measuring: a view of what :mod:`.reader` opens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .class_folders import LABEL_COLUMNS
from .columns import known_label
from .damaged_images import without_damaged
from .library_internals import with_known_features
from .reader import open_rows

IMAGE_COLUMNS = ("image", "img", "picture")


@dataclass(frozen=True)
class LabelledImages:
    """Rows of ``image`` (a PIL image once read) and ``label``, and what the labels stand for.

    ``rows`` is a ``datasets.Dataset``, or a ``datasets.IterableDataset`` when streamed. ``skip_damaged`` says whether
    rows with damaged images are left out, as they already are of a ``Dataset``.
    """

    rows: Any
    class_names: tuple[str, ...]
    source: str
    skip_damaged: bool = False

    @property
    def is_streamed(self) -> bool:
        from datasets import Dataset

        return not isinstance(self.rows, Dataset)


def load_labelled_images(
    source: Any,
    *,
    split: str = "train",
    streaming: bool = False,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    skip_damaged: bool = False,
) -> LabelledImages:
    """Open a dataset, without reading its images if not asked to.

    Args:
        source: what :func:`.reader.open_rows` takes, or a ``datasets`` dataset.
        split: of the dataset.
        streaming: read row by row, downloading nothing ahead.
        revision: of the Hub.
        image_column: default: the first of :data:`IMAGE_COLUMNS` there is.
        label_column: default: the first of :data:`LABEL_COLUMNS` there is.
        skip_damaged: leave rows with damaged images out, and say how many; every image is read for that, unless
            they are streamed.

    Raises:
        ValueError: nothing there, no such split or column, no rows, or labels without names in a stream.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    rows: Any = source
    if isinstance(source, (str, Path)):
        rows = open_rows(str(source), split, streaming=streaming, revision=revision)
    if isinstance(rows, (DatasetDict, IterableDatasetDict)):
        if split not in rows:
            raise ValueError(f"dataset {source!s} has no split {split!r}; choose one of {', '.join(map(str, rows))}.")
        rows = rows[split]
    name = str(source) if isinstance(source, (str, Path)) else type(source).__name__
    if not isinstance(rows, (Dataset, IterableDataset)):
        raise ValueError(f"dataset is a {type(source).__name__}; give a folder, a Hub id or a datasets.Dataset.")
    if isinstance(rows, IterableDataset):
        rows = with_known_features(rows)
    features: dict[str, Any] = dict(rows.features or {})
    image_column = _column(name, features, image_column, IMAGE_COLUMNS, "image")
    label_column = _column(name, features, label_column, LABEL_COLUMNS, "label")
    rows = rows.select_columns([image_column, label_column])
    for old, new in ((image_column, "image"), (label_column, "label")):
        if old != new:
            rows = rows.rename_column(old, new)
    if isinstance(rows, Dataset) and not len(rows):
        raise ValueError(f"dataset {name} has no rows in split {split!r}.")
    if not isinstance(features[label_column], ClassLabel):
        if not isinstance(rows, Dataset):
            raise ValueError(
                f"dataset {name} is streamed and its {label_column!r} has no class names; cast it to ClassLabel, or "
                "read it without streaming."
            )
        rows = rows.class_encode_column("label")
    if skip_damaged and isinstance(rows, Dataset):
        rows = without_damaged(rows, name)
    if isinstance(rows, Dataset):
        without = [number for number, label in enumerate(rows["label"]) if known_label(label) is None]
        if without:
            raise ValueError(
                f"dataset {name} has {len(without)} rows without a label, such as row {without[0]}; leave them out, or"
                " take a split that has labels."
            )
    return LabelledImages(rows, tuple(rows.features["label"].names), name, skip_damaged)


def _column(source: str, features: dict[str, Any], given: str | None, usual: tuple[str, ...], kind: str) -> str:
    if given is not None and given not in features:
        raise ValueError(f"{kind}_column is {given!r}; dataset {source} has the columns {', '.join(features)}.")
    found = given or next((name for name in usual if name in features), None)
    if found is None:
        raise ValueError(
            f"dataset {source} has no {kind} column; it has {', '.join(features)}. Name one with {kind}_column."
        )
    return found

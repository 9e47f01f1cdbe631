"""Any labelled image dataset by name: one that ``ubgen generate`` wrote, a folder of class folders, or a Hub id."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


IMAGE_COLUMNS = ("image", "img", "picture")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class")


@dataclass(frozen=True)
class LabelledImages:
    """Rows of ``image`` (a PIL image once read) and ``label``, and what the labels stand for.

    ``rows`` is a ``datasets.Dataset``, or a ``datasets.IterableDataset`` when streamed.
    """

    rows: Any
    class_names: tuple[str, ...]
    source: str

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
) -> LabelledImages:
    """Open a dataset without reading its images.

    Args:
        source: a dataset's folder, a folder of one folder of images per class (perhaps below ``split``), a Hub id, or
            a ``datasets`` dataset.
        split: of the dataset.
        streaming: read row by row, downloading nothing ahead.
        revision: of the Hub.
        image_column: default: the first of :data:`IMAGE_COLUMNS` there is.
        label_column: default: the first of :data:`LABEL_COLUMNS` there is.

    Raises:
        ValueError: nothing there, no such split or column, no rows, or labels without names in a stream.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    rows: Any = source
    if isinstance(source, (str, Path)):
        rows = _open(str(source), split, streaming, revision)
    if isinstance(rows, (DatasetDict, IterableDatasetDict)):
        if split not in rows:
            raise ValueError(f"dataset {source!s} has no split {split!r}; choose one of {', '.join(map(str, rows))}.")
        rows = rows[split]
    name = str(source) if isinstance(source, (str, Path)) else type(source).__name__
    if not isinstance(rows, (Dataset, IterableDataset)):
        raise ValueError(f"dataset is a {type(source).__name__}; give a folder, a Hub id or a datasets.Dataset.")
    if isinstance(rows, IterableDataset) and rows.features is None:
        rows = rows._resolve_features()
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
    return LabelledImages(rows, tuple(rows.features["label"].names), name)


def _open(source: str, split: str, streaming: bool, revision: str | None) -> Any:
    from datasets import load_dataset

    folder = Path(source).expanduser()
    if folder.is_dir():
        if (folder / split).is_dir() and _is_class_folders(folder / split):
            check_class_folders(folder / split)
            return load_dataset("imagefolder", data_dir=str(folder / split), split="train", streaming=streaming)
        if _is_class_folders(folder):
            check_class_folders(folder)
            return load_dataset("imagefolder", data_dir=str(folder), split="train", streaming=streaming)
        source = str(folder)
    try:
        return load_dataset(source, split=split, streaming=streaming, revision=revision)
    # a Hub id that is unknown or unreachable, an empty folder, a split that is not there
    except (OSError, ValueError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"dataset {source!r}, split {split!r}, could not be opened; give a folder that `ubgen generate` wrote, a "
            f"folder with one folder of images per class, or a Hub id. {first_line}"
        ) from error


def _is_class_folders(folder: Path) -> bool:
    """Whether the folder holds class folders only, not parquet files or splits of them."""
    inside = [item for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")]
    if not inside or any(folder.rglob("*.parquet")):
        return False
    return any(item.is_file() for item in inside[0].iterdir()) or not any(inside[0].iterdir())


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
        if not any(item.is_file() and not item.name.startswith(".") for item in (folder / name).rglob("*")):
            raise ValueError(f"folder {folder}: class {name!r} has no images.")
    if class_names is not None:
        missing, foreign = sorted(set(class_names) - set(found)), sorted(set(found) - set(class_names))
        if missing:
            raise ValueError(f"folder {folder} lacks the class {missing[0]!r} ({len(missing)} classes are missing).")
        if foreign:
            raise ValueError(f"folder {folder} holds {foreign[0]!r}, which is none of the {len(class_names)} classes.")
    return found


def _column(source: str, features: dict[str, Any], given: str | None, usual: tuple[str, ...], kind: str) -> str:
    if given is not None and given not in features:
        raise ValueError(f"{kind}_column is {given!r}; dataset {source} has the columns {', '.join(features)}.")
    found = given or next((name for name in usual if name in features), None)
    if found is None:
        raise ValueError(
            f"dataset {source} has no {kind} column; it has {', '.join(features)}. Name one with {kind}_column."
        )
    return found


def read_rows(source: str, split: str, argument: str) -> "Dataset":
    """The rows of a folder that ``datasets`` reads (or that ``save_to_disk`` wrote), or of a Hub id.

    Raises:
        ValueError: nothing there, no such split, or no rows.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk

    folder = Path(source).expanduser()
    is_saved = (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file()
    try:
        rows: Any = load_from_disk(str(folder)) if is_saved else load_dataset(source, split=split)
        rows = rows[split] if isinstance(rows, DatasetDict) else rows
    # datasets raises many kinds: for a folder that is missing, holds no data, or lacks the split
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{argument} is {source!r}, which could not be read with split {split!r}: {first}") from error
    if not len(rows):
        raise ValueError(f"{argument} is {source!r}, which has no rows in split {split!r}.")
    return rows


def label_names_of(rows: "Dataset", whose: str) -> list[str]:
    """Names of the classes of the column ``label``, or ``ValueError`` beginning with ``whose``."""
    names = getattr(rows.features.get("label"), "names", None)
    if not names:
        raise ValueError(f"{whose} column 'label' names no classes; make it a ClassLabel.")
    return list(names)

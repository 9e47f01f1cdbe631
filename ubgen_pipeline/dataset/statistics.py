"""Figures of a finished dataset's rows, for its card: classes, sizes, scores and the variety of contexts.

Everything comes from columns of numbers and texts; no image but the first of each file is opened, and of that the
header alone.
"""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image

from ..files.image_codecs import DECODER_ERRORS
from ..files.places import Place, opened
from .columns import CLIP_COLUMNS, OBJECTS_COLUMN
from .reader import stored_column, stored_features

if TYPE_CHECKING:
    from ubgen_hub_cards.dataset_plots import ContextEntropy, Distribution, Statistics

NUM_BINS = 20
_MOST_CLASSES = 60


def dataset_statistics(files: "Sequence[Place]", counts: Sequence[int]) -> "Statistics":
    """The statistics of the rows in parquet files.

    Args:
        files: one or more, of equal columns.
        counts: rows of each class.
    """
    from ubgen_hub_cards.dataset_plots import Statistics

    columns = stored_features(files[0])
    labels = np.array([-1 if label is None else label for label in stored_column(files, "label")])
    found = [_class_sizes(counts), *(_image_sizes(files) if "image" in columns else [])]
    if OBJECTS_COLUMN in columns:
        found += _object_figures(files)
    if all(name in columns for name in CLIP_COLUMNS):
        clip, zero_shot, probability = (stored_column(files, name) for name in CLIP_COLUMNS)
        scored = np.array([number for number, value in enumerate(zero_shot) if value is not None], dtype=np.int64)
        right = np.array([zero_shot[number] == labels[number] for number in scored], dtype=np.float64)
        shares = [right[labels[scored] == label].mean() for label in np.unique(labels[scored])]
        found += [
            distribution("CLIP score", clip),
            distribution("probability of the zero-shot class", probability),
            distribution("share of a class's images with the right zero-shot class", shares),
        ]
    contexts = []
    for name in columns.get("attributes", ()):
        contexts.append(context_entropy(name, _attribute(files, name), labels.tolist()))
    return Statistics([item for item in found if item is not None], [item for item in contexts if item is not None])


def distribution(name: str, values: Iterable[float | None]) -> "Distribution | None":
    """The distribution of those values that are numbers; None where there is none."""
    from ubgen_hub_cards.dataset_plots import Distribution

    known = np.array([value for value in values if value is not None], dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return None
    least, most = float(known.min()), float(known.max())
    bins = np.histogram(known, NUM_BINS, (least, most))[0] if most > least else np.array([len(known)])
    return Distribution(name, least, float(known.mean()), most, bins.tolist())


def context_entropy(name: str, values: Sequence[str | None], labels: Sequence[int]) -> "ContextEntropy | None":
    """The entropy of a placeholder's values, in all rows and within classes; None where no row has one.

    Args:
        name: of the placeholder.
        values: of each row, None where its prompt has no such placeholder.
        labels: of each row.
    """
    from ubgen_hub_cards.dataset_plots import ContextEntropy

    pairs = [(label, value) for label, value in zip(labels, values, strict=True) if value is not None]
    if not pairs:
        return None
    by_class: dict[int, Counter[str]] = {}
    for label, value in pairs:
        by_class.setdefault(label, Counter())[value] += 1
    every = Counter(value for _, value in pairs)
    within = float(np.mean([_bits(counts) for counts in by_class.values()]))
    return ContextEntropy(name, len(every), _bits(every), within)


def _bits(counts: Counter[str]) -> float:
    shares = np.array(list(counts.values()), dtype=np.float64) / counts.total()
    return float(np.abs(shares @ np.log2(shares)))


def _class_sizes(counts: Sequence[int]) -> "Distribution":
    """Images of the classes, in label order; neighbours together where there are many."""
    from ubgen_hub_cards.dataset_plots import Distribution

    parts = np.array_split(np.asarray(counts), min(len(counts), _MOST_CLASSES))
    return Distribution(
        "images of a class; the plot has the classes in label order",
        min(counts), float(np.mean(counts)), max(counts), [round(float(part.mean())) for part in parts],
    )  # fmt: skip


def _image_sizes(files: "Sequence[Place]") -> "list[Distribution | None]":
    widths, heights = [], []
    for file in files:
        with parquet.ParquetFile(opened(file)) as stream:
            value = next(stream.iter_batches(1, columns=["image"]))["image"][0].as_py()
        try:
            with Image.open(io.BytesIO((value or {}).get("bytes") or b"")) as image:
                widths.append(image.width)
                heights.append(image.height)
        except DECODER_ERRORS:
            continue
    of = "of the first image of each file, in pixels"
    return [distribution(f"width {of}", widths), distribution(f"height {of}", heights)]


def _object_figures(files: "Sequence[Place]") -> "list[Distribution | None]":
    numbers: list[int] = []
    areas: list[int] = []
    scores: list[float | None] = []
    for value in stored_column(files, OBJECTS_COLUMN):
        told: dict[str, Any] = value or {}
        numbers.append(len(told.get("category") or ()))
        areas += told.get("area") or ()
        scores += told.get("score") or ()
    return [
        distribution("objects in an image", numbers),
        distribution("side of a square of an object's area, in pixels", np.sqrt(np.array(areas, np.float64))),
        distribution("score of an object", scores),
    ]


def _attribute(files: "Sequence[Place]", name: str) -> list[str | None]:
    return [(value or {}).get(name) for value in stored_column(files, "attributes")]

"""Figures of a finished dataset's rows, for its card: classes, sizes, scores and the variety of contexts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .columns import CLIP_COLUMNS, OBJECTS_COLUMN
from .row_facts import RowFacts

if TYPE_CHECKING:
    from ubgen_hub_cards.dataset_plots import ContextEntropy, Distribution, Statistics

NUM_BINS = 20
_MOST_CLASSES = 60


def dataset_statistics(
    facts: Sequence[RowFacts], counts: Sequence[int], attributes: Iterable[str] = ()
) -> "Statistics":
    """The statistics of a dataset's rows.

    Args:
        facts: of each file, one or more, of equal columns.
        counts: rows of each class.
        attributes: names of the placeholders of prompts that rows have values of.
    """
    from ubgen_hub_cards.dataset_plots import Statistics

    rows = {name: [value for file in facts for value in file.columns[name]] for name in facts[0].columns}
    labels = np.array([-1 if label is None else label for label in rows["label"]])
    found = [_class_sizes(counts), *_image_sizes(facts)]
    if OBJECTS_COLUMN in rows:
        found += _object_figures(rows[OBJECTS_COLUMN])
    if all(name in rows for name in CLIP_COLUMNS):
        clip, zero_shot, probability = (rows[name] for name in CLIP_COLUMNS)
        scored = np.array([number for number, value in enumerate(zero_shot) if value is not None], dtype=np.int64)
        right = np.array([zero_shot[number] == labels[number] for number in scored], dtype=np.float64)
        shares = [right[labels[scored] == label].mean() for label in np.unique(labels[scored])]
        found += [
            distribution("CLIP score", clip),
            distribution("probability of the zero-shot class", probability),
            distribution("share of a class's images with the right zero-shot class", shares),
        ]
    contexts = []
    for name in attributes:
        values = [(value or {}).get(name) for value in rows["attributes"]]
        contexts.append(context_entropy(name, values, labels.tolist()))
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


def _image_sizes(facts: Sequence[RowFacts]) -> "list[Distribution | None]":
    sizes = [file.image_size for file in facts if file.image_size is not None]
    of = "of the first image of each file, in pixels"
    return [
        distribution(f"width {of}", [width for width, _ in sizes]),
        distribution(f"height {of}", [height for _, height in sizes]),
    ]


def _object_figures(rows: Sequence[Mapping[str, Any] | None]) -> "list[Distribution | None]":
    numbers: list[int] = []
    areas: list[int] = []
    scores: list[float | None] = []
    for value in rows:
        told = value or {}
        numbers.append(len(told.get("category") or ()))
        areas += told.get("area") or ()
        scores += told.get("score") or ()
    return [
        distribution("objects in an image", numbers),
        distribution("side of a square of an object's area, in pixels", np.sqrt(np.array(areas, np.float64))),
        distribution("score of an object", scores),
    ]

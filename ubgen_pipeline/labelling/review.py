"""How far a dataset's own masks agree with a trained model's: a new dataset with the model's mask and their IoU.

The rows keep every column, so that ``ubgen filter --min-review-iou`` can leave out the bad ones, and the result be
published, drawn again and exported as before.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..commands.console import Progress, table
from ..dataset.card import card_of_copy
from ..dataset.columns import REVIEW_IOU_COLUMN, REVIEW_MASK_COLUMN, known_label
from ..dataset.reader import StoredRows, check_elsewhere
from ..dataset.shards import DatasetShards, Shard
from ..files.image_codecs import png_bytes, read_numbers, read_rgb
from ..mask_settings import IGNORE_LABEL
from ..models.fingerprints import fingerprint
from ..models.sources import public_name
from .class_words import SharedWords, read_shared_words
from .settings import AnnotateSettings

if TYPE_CHECKING:
    from .annotators import Annotator

# below it a row is counted as one to look at
DOUBTFUL_IOU = 0.5


def review_dataset(folder: str | Path, settings: AnnotateSettings) -> StoredRows:
    """Write the dataset in ``folder`` anew with the columns ``review_mask``, ``review_iou`` and ``annotator``.

    Raises:
        ValueError: no finished dataset of ubgen's with masks there, a model that cannot be loaded or gives no masks,
            or an output folder that holds something else.
    """
    from .build_annotator import annotator_of

    source, output_dir = StoredRows(folder), str(settings.output_dir)
    check_elsewhere(output_dir, folder)
    if "mask" not in source.features:
        raise ValueError(
            f"review is set, but {str(folder)!r} has no column 'mask' to compare with; generate it with --annotations"
            " mask, or leave review out."
        )
    words = read_shared_words(settings.class_map or [], source.label_names)
    manifest = {
        "num_samples": len(source),
        "samples_per_shard": source.rows_per_file,
        **source.manifest,
        "reviewed": {
            "source": source.fingerprint(),
            "model": fingerprint(str(settings.model)),
            "mask_model": fingerprint(settings.mask_model),
            "class_map": [dict(words.class_map), list(words.stand_ins)],
            "negative_phrases": settings.negative_phrases,
            "threshold": settings.threshold,
            "min_area": settings.min_area,
            "objects": settings.objects,
            "own_class_only": settings.own_class_only,
            "versions": {name: version(name) for name in ("torch", "transformers", "pillow", "pyarrow")},
        },
    }
    shards = DatasetShards(output_dir, manifest, len(source), source.rows_per_file)
    shards.check()
    if not shards.is_finished():
        shards.check_may_write()
        annotator = annotator_of(settings, source.label_names, words.class_map)
        first = next(source.rows([0], ["image"]))
        if annotator(read_rgb((first["image"] or {}).get("bytes"), "row 0, column 'image',")).mask is None:
            raise ValueError(
                f"review is set, but model {settings.model!r} gives boxes and no masks; give a mask_model, too."
            )
        shards.open()
        missing = shards.missing()
        progress = Progress(sum(shard.stop - shard.start for shard in missing), "images")
        for shard in missing:
            rows = _rows(source, annotator, words, settings, shard)
            shards.write(shard, progress.counted(rows), _features(source))
        shards.finish(card_of_copy(shards, source, "reviewed"))
    return StoredRows(output_dir)


def mask_agreement(one: np.ndarray, other: np.ndarray) -> float | None:
    """The mean IoU over the classes that are in either mask; None where neither has any.

    Args:
        one, other: ``(H, W)`` uint8 as the column ``mask`` has it; pixels that either ignores count for nothing.
    """
    decided = (one != IGNORE_LABEL) & (other != IGNORE_LABEL)
    one, other = one[decided], other[decided]
    values = np.setdiff1d(np.union1d(one, other), [0])
    if not len(values):
        return None
    shares = [
        ((one == value) & (other == value)).sum() / ((one == value) | (other == value)).sum() for value in values
    ]
    return float(np.mean(shares))


def review_table(rows: StoredRows) -> str:
    """For each class its images, the mean IoU, and how many lie below 0.5 or show nothing to either.

    Rows without a label are counted in a line of their own.
    """
    labels, found = rows.numbers("label"), rows.numbers(REVIEW_IOU_COLUMN)
    groups = [(name, found[labels == label]) for label, name in enumerate(rows.label_names)]
    lines = []
    for name, own in [*groups, ("(without a label)", found[~(labels >= 0)])]:
        if not len(own):
            continue
        known = own[~np.isnan(own)]
        mean = f"{known.mean():.3f}" if len(known) else "-"
        lines.append((name, str(len(own)), mean, str(int((known < DOUBTFUL_IOU).sum())), str(len(own) - len(known))))
    return table(("class", "images", "mean IoU", f"below {DOUBTFUL_IOU}", "nothing in either"), lines)


def _rows(
    source: StoredRows, annotator: "Annotator", words: SharedWords, settings: AnnotateSettings, shard: Shard
) -> Iterator[Mapping[str, Any]]:
    positions = range(shard.start, shard.stop)
    for position, row in zip(positions, source.rows(positions)):
        label = known_label(row["label"])
        own_label = words.stand_ins[label] if settings.own_class_only and label is not None else None
        image = read_rgb((row["image"] or {}).get("bytes"), f"row {position}, column 'image',")
        theirs = words.in_row(annotator(image, own_label), label).mask
        assert theirs is not None
        ours = (row["mask"] or {}).get("bytes")
        agreement = None
        if ours is not None:
            own_mask = read_numbers(ours, f"row {position}, column 'mask',")
            if own_mask.shape != theirs.shape:
                raise ValueError(
                    f"the mask of row {position} is {own_mask.shape[1]} x {own_mask.shape[0]} pixels and its image"
                    f" {theirs.shape[1]} x {theirs.shape[0]}; make them the same."
                )
            agreement = mask_agreement(own_mask, theirs)
        yield {
            **row,
            REVIEW_MASK_COLUMN: {"bytes": png_bytes(theirs), "path": None},
            REVIEW_IOU_COLUMN: agreement,
            "annotator": public_name(str(settings.model)),
        }


def _features(source: StoredRows) -> Any:
    from datasets import Features, Image, Value

    added = {REVIEW_MASK_COLUMN: Image(), REVIEW_IOU_COLUMN: Value("float32"), "annotator": Value("string")}
    return Features({**source.features, **added})

"""Score a finished dataset's images: a new dataset with columns for CLIP fit, near-duplicates and safety.

Rows, their order and their division into files stay as they are, and so does what they were drawn with: ``ubgen
regenerate``, ``ubgen publish`` and ``ubgen export`` take the new dataset as they take the old one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..commands.console import Progress, say, table
from ..commands.settings_parser import field_help, leading_folder, parse_settings, run_command
from ..dataset.card import card_of_copy
from ..dataset.columns import CLIP_COLUMNS, GROUP_COLUMN, HASH_COLUMN, SAFETY_COLUMN, known_label, score_features
from ..dataset.reader import StoredRows, check_elsewhere
from ..dataset.shards import DatasetShards, Shard
from ..files.image_codecs import DamagedImageError, read_rgb
from ..models.devices import usable_device
from .duplicates import (
    MAX_HASH_DISTANCE,
    check_hash_distance,
    hash_text,
    hashes_from_texts,
    perceptual_hash,
    row_groups,
)
from .settings import ScoreSettings

if TYPE_CHECKING:
    from .image_scorer import ImageScorer


@dataclass(frozen=True)
class ScoreCommandSettings(ScoreSettings):
    """Settings of ``ubgen score DIR``."""

    output_dir: str | None = field_help("folder of the new dataset; an unfinished one is resumed", None)
    max_hash_distance: int = field_help(
        "bits of 64 by which the hashes of near-duplicates may differ, 0 to 16", MAX_HASH_DISTANCE
    )
    skip_damaged: bool = field_help(
        "leave damaged images without scores, named and counted; else the first stops the run",
        False,
    )
    device: str | None = field_help("cpu, cuda, …; CUDA where there is one, if not given", None)

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise ValueError("output_dir is missing; give the folder of the new dataset.")
        if not self.wanted_scores():
            raise ValueError("scores is missing; give --scores clip, duplicates, safety, or several of them.")
        check_hash_distance(self.max_hash_distance)


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen score``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    folder, argv = leading_folder(argv, "ubgen score DIR --scores clip duplicates safety --output-dir OUT")
    settings = parse_settings(ScoreCommandSettings, argv, prog="ubgen score DIR", description=__doc__)
    scored = score_dataset(folder, settings)
    say(f"{settings.output_dir}: {len(scored)} rows scored")
    print(score_table(scored))


def score_dataset(folder: str | Path, settings: ScoreCommandSettings) -> StoredRows:
    """Write the dataset in ``folder`` anew with the columns of the scores; what they held before is replaced.

    Raises:
        ValueError: no finished dataset of ubgen's there, a model that cannot be loaded, or an output folder that holds
            something else.
    """
    from .image_scorer import ImageScorer

    source, output_dir = StoredRows(folder), str(settings.output_dir)
    check_elsewhere(output_dir, folder)
    generator = source.generator()
    facts = settings.score_facts(generator)
    if "duplicates" in facts:
        facts["duplicates"]["max_hash_distance"] = settings.max_hash_distance
    manifest = {
        "num_samples": len(source),
        "samples_per_shard": source.rows_per_file,
        **source.manifest,
        "scores": {**source.manifest.get("scores", {}), **facts},
        "scored": {
            "source": source.fingerprint(),
            "versions": {name: version(name) for name in ("torch", "transformers", "pillow", "scipy", "pyarrow")},
        },
    }
    shards = DatasetShards(output_dir, manifest, len(source), source.rows_per_file)
    shards.check()
    if not shards.is_finished():
        shards.check_may_write()
        scorer = ImageScorer(
            settings,
            source.class_names(),
            generator=generator or str(folder),
            own_checker=SAFETY_COLUMN in source.features,
            device=usable_device(settings.device),
        )
        known = _duplicates(source, settings) if "duplicates" in facts else None
        features = _features(source, settings.wanted_scores())
        shards.open()
        missing = shards.missing()
        progress = Progress(sum(shard.stop - shard.start for shard in missing), "images")
        for shard in missing:
            rows = _rows(source, scorer, known, shard, skip_damaged=settings.skip_damaged)
            shards.write(shard, progress.counted(rows), features)
        shards.finish(card_of_copy(shards, source, "scored"))
    return StoredRows(output_dir)


def score_table(rows: StoredRows) -> str:
    """What the columns of scores hold, as a table of counts of rows, and the mean CLIP score."""
    lines = []
    if CLIP_COLUMNS[0] in rows.features:
        scores, label = rows.numbers(CLIP_COLUMNS[0]), rows.numbers("label")
        has_none = np.isnan(scores)
        is_unlabelled = ~(label >= 0)
        lines.append(("CLIP score, mean", "-" if has_none.all() else f"{np.nanmean(scores):.3f}"))
        lines.append(("zero-shot right", str(int((rows.numbers(CLIP_COLUMNS[1]) == label).sum()))))
        lines.append(("black all over or damaged, without scores", str(int((has_none & ~is_unlabelled).sum()))))
        if is_unlabelled.any():
            lines.append(("without a label, and so without CLIP scores", str(int(is_unlabelled.sum()))))
    if GROUP_COLUMN in rows.features:
        sizes = np.unique(rows.numbers(GROUP_COLUMN), return_counts=True)[1]
        lines.append(("groups of near-duplicates", str(int((sizes > 1).sum()))))
        lines.append(("rows in these groups", str(int(sizes[sizes > 1].sum()))))
    if SAFETY_COLUMN in rows.features:
        lines.append(("flagged by a safety checker, kept", str(int(np.nansum(rows.numbers(SAFETY_COLUMN))))))
    return table(("", "rows"), lines)


def _duplicates(source: StoredRows, settings: ScoreCommandSettings) -> tuple[list[str | None], list[int]]:
    """The hash of every row, and the index of the first row of its group."""
    if HASH_COLUMN in source.features:
        texts = source.column(HASH_COLUMN)
    else:
        rows = source.rows(range(len(source)), columns=["image"])
        hashed = enumerate(Progress(len(source), "hashes").counted(rows))
        texts = [_hash(row, _what(position), skip_damaged=settings.skip_damaged) for position, row in hashed]
    return texts, row_groups(source.indices(), *hashes_from_texts(texts), settings.max_hash_distance).tolist()


def _what(position: int) -> str:
    return f"row {position}, column 'image',"


def _hash(row: Mapping[str, Any], what: str, *, skip_damaged: bool) -> str | None:
    try:
        rgb = read_rgb((row["image"] or {}).get("bytes"), what)
    except DamagedImageError:
        if not skip_damaged:
            raise
        return None
    return None if rgb.getbbox() is None else hash_text(perceptual_hash(rgb))


def _rows(
    source: StoredRows,
    scorer: "ImageScorer",
    known: tuple[list[str | None], list[int]] | None,
    shard: Shard,
    *,
    skip_damaged: bool,
) -> Iterator[dict[str, Any]]:
    positions = range(shard.start, shard.stop)
    for position, row in zip(positions, source.rows(positions)):
        hashed = known[0][position] if known is not None else None
        data = (row["image"] or {}).get("bytes")
        try:
            row |= scorer(data, known_label(row["label"]), row.get(SAFETY_COLUMN), hashed, _what(position))
        except DamagedImageError as error:
            if not skip_damaged:
                raise
            # what an earlier run said of it would be of another image
            row |= scorer.no_scores()
            say(f"{error} It has no scores.")
        if known is not None:
            row[GROUP_COLUMN] = known[1][position]
        yield row


def _features(source: StoredRows, wanted: Sequence[str]) -> Any:
    from datasets import Features, Value

    columns = {**source.features, **score_features(wanted, source.label_names)}
    if "duplicates" in wanted:
        columns[GROUP_COLUMN] = Value("int64")
    return Features(columns)

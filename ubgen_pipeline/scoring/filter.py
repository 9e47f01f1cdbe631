"""Write the rows of a scored dataset that pass rules: a view beside it, with counts of what was left out and why.

The dataset itself stays as it is. Rows keep every column, their index and seed among them; ``filter_report.json`` and
the card count what is not there by rule and by class.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..commands.console import Progress, say, say_warning, table
from ..commands.settings_parser import field_help, leading_folder, parse_settings, run_command
from ..dataset.card import FILTER_REPORT, card_of_copy
from ..dataset.reader import StoredRows, check_elsewhere
from ..dataset.shards import DatasetShards
from .duplicates import MAX_HASH_DISTANCE, check_hash_distance
from .filter_rules import RULES, Filtered, apply_rules

_MOST_NAMED = 20


@dataclass(frozen=True)
class FilterSettings:
    """Settings of ``ubgen filter DIR``."""

    output_dir: str | None = field_help("folder of the view; an unfinished one is resumed", None)
    safe_only: bool = field_help("leave out what a safety checker flagged", False)
    min_clip_score: float | None = field_help("least clip_score, from -1 to 1", None)
    zero_shot_correct: bool = field_help("leave out what the CLIP takes for another class", False)
    min_zero_shot_probability: float | None = field_help(
        "least probability by the CLIP, from 0 to 1; what it takes for another class is left out, too",
        None,
    )
    min_review_iou: float | None = field_help(
        "least review_iou, the agreement of masks with a trained model, from 0 to 1", None
    )
    max_per_duplicate_group: int | None = field_help("most rows of a group of near-duplicates, the first ones", None)
    max_per_class: int | None = field_help("most rows of a class, the first ones that pass the other rules", None)
    max_hash_distance: int | None = field_help(
        "bits of 64 by which the hashes of near-duplicates may differ; the groups of the column duplicate_group, or"
        f" {MAX_HASH_DISTANCE} bits without it, if not given",
        None,
    )

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise ValueError("output_dir is missing; give the folder of the view.")
        if not self.rules():
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in RULES)
            raise ValueError(f"no rule is given; give one or several of {flags}.")
        if self.min_clip_score is not None and not -1 <= self.min_clip_score <= 1:
            raise ValueError(f"min_clip_score is {self.min_clip_score}; give a cosine from -1 to 1.")
        for name in ("min_zero_shot_probability", "min_review_iou"):
            if (least := getattr(self, name)) is not None and not 0 <= least <= 1:
                raise ValueError(f"{name} is {least}; give a share from 0 to 1.")
        for name in ("max_per_duplicate_group", "max_per_class"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise ValueError(f"{name} is {count}; give an integer of at least 1.")
        if self.max_hash_distance is not None:
            check_hash_distance(self.max_hash_distance)
            if self.max_per_duplicate_group is None:
                raise ValueError("max_hash_distance is given without max_per_duplicate_group; give both, or neither.")

    def rules(self) -> dict[str, Any]:
        """The rules asked for and their values, in the order in which they are asked."""
        values = {name: getattr(self, name) for name in RULES}
        return {name: value for name, value in values.items() if value is not None and value is not False}


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen filter``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    folder, argv = leading_folder(argv, "ubgen filter DIR --min-clip-score X … --output-dir VIEW")
    settings = parse_settings(FilterSettings, argv, prog="ubgen filter DIR", description=__doc__)
    filtered = filter_dataset(folder, settings)
    report = filtered.report
    say(f"{settings.output_dir}: {report['num_kept']} of {report['num_rows']} rows are kept")
    if empty := filtered.empty_classes:
        names = ", ".join(empty[:_MOST_NAMED]) + (" …" if len(empty) > _MOST_NAMED else "")
        say_warning(f"no row is left of {len(empty)} classes: {names}")
    left_out = [[item["name"], str(item["num_left_out"])] for item in report["rules"]]
    print(table(("rule", "rows left out"), left_out))


def filter_dataset(folder: str | Path, settings: FilterSettings) -> Filtered:
    """Write the view, or what is missing of it, and return what the rules leave.

    Raises:
        ValueError: no finished dataset of ubgen's there, a column that a rule needs is missing, no row passes, or an
            output folder that holds something else.
    """
    source, output_dir = StoredRows(folder), str(settings.output_dir)
    check_elsewhere(output_dir, folder)
    rules = settings.rules()
    filtered = apply_rules(source, rules, settings.max_hash_distance)
    if not len(filtered.kept):
        counts = ", ".join(f"{item['name']} leaves out {item['num_left_out']}" for item in filtered.report["rules"])
        raise ValueError(f"no row of {str(folder)!r} passes the rules ({counts}); loosen them.")
    step = {
        "source": source.fingerprint(),
        "num_samples": len(source),
        "rules": rules,
        "max_hash_distance": settings.max_hash_distance,
    }
    manifest = {
        "samples_per_shard": source.rows_per_file,
        **source.manifest,
        "num_samples": len(filtered.kept),
        "filters": [*source.manifest.get("filters", []), step],
    }
    shards = DatasetShards(output_dir, manifest, len(filtered.kept), source.rows_per_file)
    shards.check()
    if not shards.is_finished():
        shards.open()
        missing = shards.missing()
        progress = Progress(sum(shard.stop - shard.start for shard in missing), "images")
        for shard in missing:
            rows = source.rows(filtered.kept[shard.start : shard.stop])
            shards.write(shard, progress.counted(rows), source.features)
        shards.write_report(FILTER_REPORT, json.dumps(filtered.report, indent=2, ensure_ascii=False) + "\n")
        shards.finish(card_of_copy(shards, source, "filtered"))
    return filtered

"""The rules of ``ubgen filter``: which rows of a scored dataset stay, and why each of the others does not. No torch.

Rules are asked in a fixed order, and a row is counted under the first that leaves it out. Near-duplicates come after
the rules on single rows, so that a group is represented by a row that passes these, and the size of classes last. A
row without the score that a rule asks for (its image is black all over) does not pass that rule; of the rule on
duplicates it is a group of its own.
Shapes: N rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dataset.columns import CLIP_COLUMNS, GROUP_COLUMN, HASH_COLUMN, REVIEW_IOU_COLUMN, SAFETY_COLUMN
from ..dataset.reader import StoredRows
from .duplicates import MAX_HASH_DISTANCE, hashes_from_texts, row_groups

# the rules, and the score whose columns each reads (`ubgen annotate --review` gives the one of that name), if any
RULES: dict[str, str | None] = {
    "safe_only": "safety",
    "min_clip_score": "clip",
    "zero_shot_correct": "clip",
    "min_zero_shot_probability": "clip",
    "min_review_iou": "review",
    "max_per_duplicate_group": "duplicates",
    "max_per_class": None,
}


@dataclass(frozen=True)
class Filtered:
    """What the rules leave.

    Attributes:
        kept: ``(K,)`` positions of the rows that stay, ascending.
        report: rows before and kept, for each rule its value and what it left out, for each class the same, and for
            the rows without a label where there are any; JSON.
    """

    kept: np.ndarray
    report: dict[str, Any]

    @property
    def empty_classes(self) -> list[str]:
        """Names of the classes that had rows and have none left."""
        return [item["name"] for item in self.report["classes"] if item["num_rows"] and not item["num_kept"]]


def apply_rules(rows: StoredRows, rules: dict[str, Any], max_hash_distance: int | None = None) -> Filtered:
    """Ask the rules about every row.

    Args:
        rows: of the dataset.
        rules: values of those of ``RULES`` that are to be asked.
        max_hash_distance: groups are made anew with it; None takes those of the column where there is one.

    Raises:
        ValueError: a column that a rule needs is missing.
    """
    for name in rules:
        _check_columns(rows, name, max_hash_distance)
    labels = rows.numbers("label")
    reasons = np.full(len(rows), -1)
    for number, name in enumerate(rules):
        left = np.flatnonzero(reasons < 0)
        passes = _passing(rows, name, rules[name], labels, left, max_hash_distance)
        reasons[left[~passes[left]]] = number
    kept = np.flatnonzero(reasons < 0)
    return Filtered(kept, _report(rows.label_names, labels, reasons, rules))


def _passing(
    rows: StoredRows, name: str, value: Any, labels: np.ndarray, left: np.ndarray, max_distance: int | None
) -> np.ndarray:
    """``(N,)`` bool; the rules that count rows count only those at the positions ``left``."""
    if name == "safe_only":
        return rows.numbers(SAFETY_COLUMN) == 0
    if name == "min_clip_score":
        return rows.numbers(CLIP_COLUMNS[0]) >= value
    if name == "zero_shot_correct":
        return rows.numbers(CLIP_COLUMNS[1]) == labels
    if name == "min_zero_shot_probability":
        return (rows.numbers(CLIP_COLUMNS[1]) == labels) & (rows.numbers(CLIP_COLUMNS[2]) >= value)
    if name == "min_review_iou":
        return rows.numbers(REVIEW_IOU_COLUMN) >= value
    groups = labels if name == "max_per_class" else _groups(rows, max_distance)
    passes = np.ones(len(rows), bool)
    order = np.argsort(groups[left], kind="stable")
    groups = groups[left[order]]
    place = np.arange(len(order)) - np.searchsorted(groups, groups, side="left")
    passes[left[order]] = place < value
    # rows without a label are of no class
    return passes | ~(labels >= 0) if name == "max_per_class" else passes


def _groups(rows: StoredRows, max_distance: int | None) -> np.ndarray:
    if GROUP_COLUMN in rows.features and max_distance is None:
        return rows.numbers(GROUP_COLUMN).astype(np.int64)
    distance = MAX_HASH_DISTANCE if max_distance is None else max_distance
    return row_groups(rows.indices(), *hashes_from_texts(rows.column(HASH_COLUMN)), distance)


def _check_columns(rows: StoredRows, rule: str, max_distance: int | None) -> None:
    if (score := RULES[rule]) is None:
        return
    columns = {
        "safety": [SAFETY_COLUMN],
        "clip": CLIP_COLUMNS,
        "review": [REVIEW_IOU_COLUMN],
        "duplicates": [HASH_COLUMN],
    }[score]
    missing = [name for name in columns if name not in rows.features]
    has_groups = score == "duplicates" and GROUP_COLUMN in rows.features and max_distance is None
    if missing and not has_groups:
        command = f"ubgen score {rows.folder} --scores {score}"
        if score == "review":
            command = f"ubgen annotate {rows.folder} --model MODEL --review"
        checker = " --safety-checker MODEL" if score == "safety" else ""
        raise ValueError(
            f"{rule} needs the column {missing[0]!r}, which {str(rows.folder)!r} lacks; add it with"
            f" `{command}{checker} --output-dir OUT`."
        )


def _report(names: list[str], labels: np.ndarray, reasons: np.ndarray, rules: dict[str, Any]) -> dict[str, Any]:
    numbers = np.where(labels >= 0, labels, len(names)).astype(np.int64)
    # classes by reasons, of which column 0 counts what is kept; the last row is of rows without a label
    table = np.zeros((len(names) + 1, len(rules) + 1), np.int64)
    np.add.at(table, (numbers, reasons + 1), 1)
    *classes, unlabelled = [
        {"num_rows": num_kept + sum(left_out), "num_kept": num_kept, "left_out": dict(zip(rules, left_out))}
        for num_kept, *left_out in table.tolist()
    ]
    return {
        "num_rows": len(labels),
        "num_kept": int((reasons < 0).sum()),
        "rules": [
            {"name": name, "value": value, "num_left_out": int((reasons == number).sum())}
            for number, (name, value) in enumerate(rules.items())
        ],
        "classes": [{"name": name, **item} for name, item in zip(names, classes, strict=True)],
        **({"without_label": unlabelled} if unlabelled["num_rows"] else {}),
    }

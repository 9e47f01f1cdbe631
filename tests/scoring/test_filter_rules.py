"""Which rows the rules leave, and which rule leaves out each of the others."""

import pytest

from support.scored_rows import NAMES, made_up, write
from ubgen_pipeline.dataset.reader import StoredRows
from ubgen_pipeline.scoring.filter_rules import apply_rules

RULES = [
    {"safe_only": True},
    {"min_clip_score": 0.1},
    {"zero_shot_correct": True},
    {"min_zero_shot_probability": 0.6},
    {"max_per_duplicate_group": 2},
    {"max_per_class": 3},
    {"safe_only": True, "min_clip_score": 0.0, "zero_shot_correct": True, "max_per_duplicate_group": 1},
    {"safe_only": True, "max_per_duplicate_group": 2, "max_per_class": 2},
]


def written_out(rows, rules):
    """For each row the first rule that leaves it out, or None."""
    reasons, members, classes = [], {}, {}
    for row in rows:
        reason = None
        if rules.get("safe_only") and row["nsfw_content_detected"]:
            reason = "safe_only"
        elif "min_clip_score" in rules and not (row["clip_score"] or -2) >= rules["min_clip_score"]:
            reason = "min_clip_score"
        elif rules.get("zero_shot_correct") and row["zero_shot_label"] != row["label"]:
            reason = "zero_shot_correct"
        elif probability_of_its_class(row) < rules.get("min_zero_shot_probability", -1):
            reason = "min_zero_shot_probability"
        elif "max_per_duplicate_group" in rules:
            members.setdefault(row["duplicate_group"], []).append(row)
            if len(members[row["duplicate_group"]]) > rules["max_per_duplicate_group"]:
                reason = "max_per_duplicate_group"
        if reason is None and "max_per_class" in rules and row["label"] in range(len(NAMES)):
            classes[row["label"]] = classes.get(row["label"], 0) + 1
            if classes[row["label"]] > rules["max_per_class"]:
                reason = "max_per_class"
        reasons.append(reason)
    return reasons


def probability_of_its_class(row):
    """The CLIP's, as far as the columns tell it: what is taken for another class has less than that class."""
    return row["zero_shot_probability"] if row["zero_shot_label"] == row["label"] else -0.5


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("source") / "d", made_up())


@pytest.mark.parametrize("rules", RULES)
def test_rows_stay_or_go_by_the_first_rule(source, rules):
    rows, found = made_up(), apply_rules(StoredRows(source), rules)
    reasons = written_out(rows, rules)
    assert found.kept.tolist() == [number for number, reason in enumerate(reasons) if reason is None]
    assert {item["name"]: item["num_left_out"] for item in found.report["rules"]} == {
        name: reasons.count(name) for name in rules
    }
    for label, item in enumerate(found.report["classes"]):
        of_class = [reason for row, reason in zip(rows, reasons) if row["label"] == label]
        assert (item["name"], item["num_rows"]) == (NAMES[label], len(of_class))
        assert item["num_kept"] == of_class.count(None)
        assert item["left_out"] == {name: of_class.count(name) for name in rules}
    assert 0 < len(found.kept) < len(rows)


@pytest.mark.parametrize("without", [None, -1])
def test_rows_without_a_label_are_counted_by_themselves(tmp_path, without):
    rows = made_up()
    for row in rows[:9]:
        row["label"] = without
    # a damaged image has no scores, and nothing says that it is safe
    rows[9]["nsfw_content_detected"] = None
    rules = {"safe_only": True, "max_per_duplicate_group": 2, "max_per_class": 3}
    found = apply_rules(StoredRows(write(tmp_path / "d", rows)), rules)
    reasons = written_out(
        [{**row, "nsfw_content_detected": row["nsfw_content_detected"] is not False} for row in rows], rules
    )
    assert found.kept.tolist() == [number for number, reason in enumerate(reasons) if reason is None]
    assert reasons[9] == "safe_only"
    told = found.report["without_label"]
    assert told["num_rows"] == 9 and told["num_kept"] == reasons[:9].count(None)
    assert told["left_out"] == {name: reasons[:9].count(name) for name in rules}
    assert sum(item["num_rows"] for item in found.report["classes"]) == len(rows) - 9


def test_groups_are_made_of_the_hashes_where_there_are_none(tmp_path):
    rows = made_up()
    folder = write(tmp_path / "d", rows, left_out=["duplicate_group"])
    hashes = [row["perceptual_hash"] for row in rows]
    exact = apply_rules(StoredRows(folder), {"max_per_duplicate_group": 1}, 0).kept
    assert exact.tolist() == [i for i, item in enumerate(hashes) if item is None or hashes.index(item) == i]
    # all those hashes differ in at most three of 64 bits
    near = apply_rules(StoredRows(folder), {"max_per_duplicate_group": 1}).kept
    assert near.tolist() == [i for i, item in enumerate(hashes) if item is None or i == 0]


def test_classes_that_lose_all_rows_are_named(source):
    found = apply_rules(StoredRows(source), {"min_clip_score": 2.0})
    assert not len(found.kept) and found.empty_classes == NAMES
    assert apply_rules(StoredRows(source), {"safe_only": True}).empty_classes == []


@pytest.mark.parametrize(
    ("rule", "left_out", "score"),
    [
        ({"safe_only": True}, "nsfw_content_detected", "safety --safety-checker MODEL"),
        ({"min_clip_score": 0.1}, "clip_score", "clip"),
        ({"zero_shot_correct": True}, "zero_shot_label", "clip"),
    ],
)
def test_a_missing_column_names_the_command_that_adds_it(tmp_path, rule, left_out, score):
    folder = write(tmp_path / "d", made_up(8), left_out=[left_out])
    with pytest.raises(ValueError, match=f"needs the column '{left_out}'.*--scores {score} --output-dir OUT"):
        apply_rules(StoredRows(folder), rule)


def test_groups_need_hashes_or_groups(tmp_path):
    rule = {"max_per_duplicate_group": 1}
    apply_rules(StoredRows(write(tmp_path / "d", made_up(8), left_out=["perceptual_hash"])), rule)
    bare = write(tmp_path / "e", made_up(8), left_out=["perceptual_hash", "duplicate_group"])
    with pytest.raises(ValueError, match="needs the column 'perceptual_hash'"):
        apply_rules(StoredRows(bare), rule)

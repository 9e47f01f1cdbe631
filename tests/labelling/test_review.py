"""A review: the agreement of a dataset's masks with a trained model's, as a column that rows are filtered by."""

import numpy as np
import pytest
from datasets import ClassLabel, Features, Image, load_dataset

from support.parts_dataset import NAMES, write_labelled, write_parts_dataset, write_rows
from support.scene_dataset import png
from support.tiny_labellers import segformer, yolos
from ubgen_pipeline.dataset.contact_sheets import main as show
from ubgen_pipeline.labelling.annotate import main
from ubgen_pipeline.labelling.review import mask_agreement
from ubgen_pipeline.scoring.filter import main as filter_main


def test_agreement_is_the_mean_iou_of_the_classes_in_either():
    one = np.array([[1, 1, 2, 0, 255]], np.uint8)
    other = np.array([[1, 0, 2, 3, 1]], np.uint8)
    # class 1: one of two pixels, class 2: all, class 3: none; the ignored pixel counts for nothing
    assert mask_agreement(one, other) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert mask_agreement(one, one) == 1.0
    nothing = np.zeros((1, 5), np.uint8)
    assert mask_agreement(nothing, nothing) is None


def test_a_review_keeps_the_rows_and_says_how_far_masks_agree(tmp_path, capsys):
    write_parts_dataset(tmp_path / "d")
    segformer(str(tmp_path / "m"), ["sky", *NAMES])
    flags = ["--model", str(tmp_path / "m"), "--review", "--threshold", "0", "--output-dir", str(tmp_path / "r")]
    assert main([str(tmp_path / "d"), *flags]) == 0
    table = capsys.readouterr().out
    before, after = (load_dataset(str(tmp_path / name), split="train") for name in ("d", "r"))
    assert set(after.column_names) == {*before.column_names, "review_mask", "review_iou", "annotator"}
    for old, new in zip(before, after):
        assert np.array_equal(np.asarray(old["mask"]), np.asarray(new["mask"])) and old["objects"] == new["objects"]
        expected = mask_agreement(np.asarray(old["mask"]), np.asarray(new["review_mask"]))
        assert (expected is None) == (new["review_iou"] is None)
        assert expected is None or new["review_iou"] == pytest.approx(expected)
    known = [value for value in after["review_iou"] if value is not None]
    assert f"{np.mean(known):.3f}" in table and len(known) >= 8
    # rows that agree least are shown first, and can be left out
    assert show([str(tmp_path / "r"), "--layers", "mask", "review", "--worst-first", "--num-per-class", "2"]) == 0
    least = sorted(known)[len(known) // 2]
    assert filter_main([str(tmp_path / "r"), "--min-review-iou", str(least), "--output-dir", str(tmp_path / "f")]) == 0
    kept = load_dataset(str(tmp_path / "f"), split="train")["review_iou"][:]
    assert len(kept) == sum(value >= least for value in known) and min(kept) >= least
    # again: nothing to do
    assert main([str(tmp_path / "d"), *flags]) == 0


def test_rows_without_a_label_are_counted_in_a_line_of_their_own(tmp_path, capsys):
    pixels, masks = np.zeros((8, 8, 3), np.uint8), [np.full((8, 8), value, np.uint8) for value in (1, 1, 0, 2)]
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES), "mask": Image()})
    rows = [
        {"image": png(pixels), "label": label, "mask": png(mask)} for label, mask in zip([0, None, -1, None], masks)
    ]
    write_rows(tmp_path / "d", rows, features)
    segformer(str(tmp_path / "m"), ["sky", *NAMES])
    assert (
        main([str(tmp_path / "d"), "--model", str(tmp_path / "m"), "--review", "--output-dir", str(tmp_path / "r")])
        == 0
    )
    reviewed = load_dataset(str(tmp_path / "r"), split="train")["review_iou"][:]
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:-4] for line in shown[1:]] == [[NAMES[0]], ["(without", "a", "label)"]]
    of_none = [value for value in reviewed[1:] if value is not None]
    mean = f"{np.mean(of_none):.3f}" if of_none else "-"
    assert shown[2][-4:] == ["3", mean, str(sum(value < 0.5 for value in of_none)), str(3 - len(of_none))]


def test_what_cannot_be_reviewed_is_refused(tmp_path, capsys):
    write_parts_dataset(tmp_path / "d")
    write_labelled(tmp_path / "bare", [0, 1], NAMES)
    yolos(str(tmp_path / "m"), NAMES)
    flags = ["--model", str(tmp_path / "m"), "--review", "--output-dir", str(tmp_path / "r")]
    for folder, message in [("d", "gives boxes and no masks; give a mask_model"), ("bare", "has no column 'mask'")]:
        assert main([str(tmp_path / folder), *flags]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "r").exists()
    assert filter_main([str(tmp_path / "d"), "--min-review-iou", "0.5", "--output-dir", str(tmp_path / "f")]) == 2
    assert "--model MODEL --review --output-dir OUT" in capsys.readouterr().err
    assert show([str(tmp_path / "d"), "--worst-first"]) == 2
    assert "has no column 'review_iou'" in capsys.readouterr().err

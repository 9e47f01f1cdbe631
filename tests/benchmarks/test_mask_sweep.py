"""The search for mask settings: its score is that of the formula, and its command prints best and held-out scores."""

import json

import numpy as np
import pytest

from benchmarks import mask_sweep
from ubgen_pipeline.mask_settings import SMALL, MaskSettings


def test_ignored_pixels_do_not_count_in_the_score():
    settings = MaskSettings(threshold=0.6, ignore_threshold=0.4)
    # three pixels of the class, one of them on the background; one ignored, which is the truth's third
    maps = np.array([[[[0.9, 0.9, 0.5, 0.1, 0.9]]]])
    truth = np.array([[[1, 1, 1, 0, 0]]])
    assert mask_sweep.score(maps, truth, settings) == pytest.approx((2 / 3, 1 / 5))


def test_a_mask_of_both_objects_is_right_about_neither():
    truth = np.array([[[1, 1, 0, 2, 2]]])
    apart = np.array([[[[0.9, 0.9, 0.1, 0.2, 0.2]], [[0.2, 0.2, 0.1, 0.9, 0.9]]]])
    assert mask_sweep.score(apart, truth, MaskSettings()) == (1, 0)
    alike = np.array([[[[0.9, 0.9, 0.1, 0.9, 0.9]], [[0.8, 0.8, 0.1, 0.8, 0.8]]]])
    assert mask_sweep.score(alike, truth, MaskSettings()) == (0.25, 0)


def test_the_command_searches_and_tests_on_other_scenes(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(mask_sweep, "candidates", lambda levels: iter([SMALL]))
    flags = [
        "--num-scenes",
        "4",
        "--num-inference-steps",
        "8",
        "--batch-size",
        "2",
        "--output",
        str(tmp_path / "all.json"),
    ]
    assert mask_sweep.main(flags) == 0
    said = capsys.readouterr().out
    assert "best on 2 scenes" in said and "on the 2 other scenes" in said
    results = json.loads((tmp_path / "all.json").read_text())
    assert len(results) == len(list(mask_sweep.thresholds()))
    assert [row["iou"] for row in results] == sorted((row["iou"] for row in results), reverse=True)
    lines = {
        line.split("  ")[-1]: float(line.split()[1].rstrip(",")) for line in said.splitlines() if "ignored" in line
    }
    # the maps of the mini model are dark where the object is
    assert lines["the defaults"] > 0.5 > 0.1 > lines["not inverted"]

"""The benchmark of masks: its variants, its measures, and its command with a small judge."""

import json
from argparse import Namespace

import numpy as np
import pytest

from benchmarks.mask_quality import VARIANTS, figures, main, train_on, variants
from ubgen_pipeline.mask_settings import SMALL
from ubgen_training.segmenter.segmenter_data import load_masked_images


def test_each_variant_leaves_one_part_out():
    found = variants(SMALL)
    assert tuple(found) == VARIANTS and found["full"] == SMALL
    assert not found["no class prompt"].class_prompt and found["no self-attention"].self_power == 0
    assert found["no ignore band"].ignore_threshold == SMALL.threshold


def test_figures_tell_the_class_from_the_object():
    truth = [np.array([[0, 1], [2, 2]], np.uint8)]
    predicted = [np.array([[0, 2], [2, 255]], np.uint8)]
    found = figures(predicted, truth)
    assert found["object_iou"] == 1.0 and found["scored_share"] == 0.75
    # background right, class 1 missed, half of what is said to be class 2 is
    assert found["mean_iou"] == pytest.approx((1 + 0 + 0.5) / 3)


@pytest.mark.slow
def test_the_command_writes_every_figure(tmp_path, capsys):
    judge = tmp_path / "judge"
    train_on(load_masked_images("mini:40:1:0.0"), Namespace(steps=2, seed=0), judge)
    flags = ["--judge", str(judge), "--images-per-class", "1", "--judged-per-class", "1", "--test-scenes", "5"]
    flags += ["--steps", "2", "--num-inference-steps", "2", "--downstream", "rendered", "full"]
    assert main([*flags, "--output-dir", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    expected = {"settings", *(f"judge on rendered {name} scenes" for name in ("unbiased", "biased"))}
    expected |= {f"against the judge, {name}" for name in VARIANTS}
    for data in ("rendered, biased", "generated, full"):
        expected |= {f"trained on {data}, tested on {name} scenes" for name in ("unbiased", "biased")}
    assert results.keys() == expected
    assert "| trained on generated, full, tested on biased scenes |" in capsys.readouterr().out

"""The bias report of a dataset: what was measured and how, a figure a line, and no path of this machine."""

import math

from ubgen_evaluation.bias_text import bias_text
from ubgen_evaluation.evaluate_settings import EvaluateSettings
from ubgen_evaluation.intervals import Interval

FIGURES = {
    "class accuracy": Interval(0.5, 0.25, 0.75),
    "FID": Interval(12.5, math.nan, math.nan),
    "something_new": Interval(math.nan, math.nan, math.nan),
}


def test_each_figure_stands_on_a_line_with_its_direction_and_interval(tmp_path):
    text = bias_text(FIGURES, EvaluateSettings(datasets=[str(tmp_path)], feature_backbone="mini"))
    about, _, figures = text.partition("\n\n")
    assert figures == (
        "class accuracy ↑  0.500 [0.250, 0.750]\nFID ↓             12.500\nsomething new     undefined\n"
    )
    assert "on split train, in the features of the backbone mini" in about and "FID" not in about


def test_what_it_was_measured_against_is_named_without_its_path(tmp_path):
    (tmp_path / "real").mkdir()
    settings = EvaluateSettings(
        datasets=[str(tmp_path)],
        feature_backbone="mini",
        mini_world=True,
        reference=str(tmp_path / "real"),
        reference_split="test",
    )
    text = bias_text(FIGURES, settings)
    assert "accuracy score: against real, split test." in text and str(tmp_path) not in text
    assert "that the mini world's own classifier reads" in text

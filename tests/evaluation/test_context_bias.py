"""Context bias against the definition, Eq. 9, computed with pandas."""

import math

import numpy as np
import pandas
import pytest

from ubgen_evaluation import context_bias


def test_against_pandas():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, 400)
    correct = rng.random(400) < np.array([0.9, 0.7, 0.5, 0.2])[counts]
    found = context_bias(correct, counts)
    accuracy = pandas.DataFrame({"k": counts, "hit": correct}).groupby("k").hit.mean()
    ratios = [accuracy[k] / accuracy[0] for k in (1, 2, 3)]
    assert found[:4] == pytest.approx(accuracy.tolist()) and found[4:7] == pytest.approx(ratios)
    assert found.average == pytest.approx(np.mean(ratios))
    assert found.pooled == pytest.approx(correct[counts > 0].mean() / accuracy[0])
    assert found.average != pytest.approx(found.pooled)
    assert all(type(value) is float for value in found)


def test_a_backbone_that_fails_on_usual_images_has_no_ratio():
    found = context_bias([0, 1, 1, 1], [0, 1, 2, 3])
    assert found.accuracy_1 == 1 and math.isnan(found.cb_1) and math.isnan(found.average)


@pytest.mark.parametrize(
    ("correct", "counts", "message"),
    [
        ([1, 0], [0, 1, 2], "correct 2, num_uncommon 3"),
        ([1, 0, 1], [0, 1, 3], "partition P_2 is empty"),
        ([1, 0, 1, 1, 0], [0, 1, 2, 3, 4], "holds 4"),
        ([1, 0, 1, 0.5], [0, 1, 2, 3], "truth values"),
        ([1, 0, 1, float("nan")], [0, 1, 2, 3], "truth values"),
        ([1, 0, 1, 1], [0.0, 1.0, 2.0, 3.0], "num_uncommon is float64"),
        ([], [], "correct has shape"),
    ],
)
def test_bad_input(correct, counts, message):
    with pytest.raises(ValueError, match=message):
        context_bias(correct, counts)

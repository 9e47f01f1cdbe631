"""IoU of masks against scikit-learn and by hand, and what is refused."""

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from ubgen_evaluation import mask_quality
from ubgen_evaluation.mask_quality import confusion_counts, quality_of_counts


def test_equals_scikit_learn_on_the_pixels_that_are_scored():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 5, 8, 8))
    truth[rng.random(truth.shape) < 0.2] = 255
    predicted[rng.random(truth.shape) < 0.1] = 255
    quality = mask_quality(predicted.astype(np.uint8), truth.astype(np.uint8), 4)
    scored = (truth != 255) & (predicted != 255)
    expected = jaccard_score(truth[scored], predicted[scored], average=None)
    assert np.allclose(quality.iou, expected) and quality.mean_iou == pytest.approx(expected.mean())
    assert quality.mean_foreground_iou == pytest.approx(expected[1:].mean())
    assert quality.pixel_accuracy == pytest.approx((truth == predicted)[scored].mean())
    assert quality.scored_share == pytest.approx(scored.mean())


def test_by_hand_with_a_class_that_does_not_occur():
    quality = mask_quality([[0, 0, 2, 2]], [[0, 2, 2, 255]], 4)
    assert quality.iou[[0, 2]].tolist() == [0.5, 0.5] and np.isnan(quality.iou[[1, 3]]).all()
    assert quality.mean_iou == 0.5 and quality.pixel_accuracy == pytest.approx(2 / 3)
    assert np.isnan(mask_quality([0, 0], [0, 0], 3).mean_foreground_iou)


def test_counts_of_batches_add_up():
    rng = np.random.default_rng(1)
    truth, predicted = rng.integers(0, 3, (2, 4, 6, 6))
    parts = sum(confusion_counts(p, t, 3) for p, t in zip(predicted, truth))
    assert quality_of_counts(parts)[:4] == mask_quality(predicted, truth, 3)[:4]


@pytest.mark.parametrize(
    ("predicted", "truth", "classes", "message"),
    [
        ([[0, 1]], [0, 1], 2, "resize the masks"),
        ([0.0, 1.0], [0, 1], 2, "integer classes"),
        ([0, 2], [0, 1], 2, "predicted holds class 2"),
        ([0, 1], [0, -1], 2, "truth holds class -1"),
        ([], [], 2, "integer classes|no pixels"),
        ([0], [255], 2, "every pixel"),
        ([0], [0], 300, "ignore_label 255"),
        ([0], [0], 0, "num_classes is 0"),
    ],
)
def test_bad_input(predicted, truth, classes, message):
    with pytest.raises(ValueError, match=message):
        mask_quality(predicted, truth, classes)

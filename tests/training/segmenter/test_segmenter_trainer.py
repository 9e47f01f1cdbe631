"""The segmenter's trainer: what it saves, the masks that a segmenter predicts, and how they are measured."""

import numpy as np
import pytest
import torch

from support.tiny_labellers import segformer
from ubgen_pipeline.mask_settings import IGNORE_LABEL
from ubgen_pipeline.models.segmenter import build_segmenter, load_segmenter
from ubgen_training.segmenter.segmenter_data import load_masked_images
from ubgen_training.segmenter.segmenter_loss import segmentation_loss
from ubgen_training.segmenter.segmenter_trainer import SegmenterWithLoss, measure, predicted_masks


@pytest.mark.parametrize("kind", ["mini", "deeplabv3_mobilenet_v3_large", "segformer"])
def test_saved_and_loaded(tmp_path, kind):
    if kind == "segformer":
        segformer(tmp_path / "m", ["background", "a", "b"])
    segmenter = build_segmenter(str(tmp_path / "m") if kind == "segformer" else kind, ["a", "b"], seed=1).eval()
    segmenter.save(tmp_path / "saved")
    loaded, images = load_segmenter(tmp_path / "saved"), torch.rand(1, 3, 64, 64)
    assert loaded.class_names == ["a", "b"] and not list((tmp_path / "saved").glob("*.bin"))
    assert torch.equal(loaded.predict(images).masks, segmenter.predict(images).masks)
    assert torch.allclose(loaded.predict(images).confidence, segmenter.predict(images).confidence, atol=1e-6)


def test_one_call_from_images_and_masks_to_the_loss():
    segmenter = build_segmenter("mini", ["a", "b"], seed=1).eval()
    images, masks = torch.rand(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    wrapped = SegmenterWithLoss(segmenter)
    with torch.no_grad():
        assert torch.equal(wrapped(images, masks), segmentation_loss(segmenter, images, masks))
    assert wrapped.class_names == ["a", "b"] and all(name.startswith("segmenter.") for name in wrapped.state_dict())


def test_masks_have_the_images_size_and_doubtful_pixels_are_ignored():
    data = load_masked_images("mini:3:1")
    segmenter = build_segmenter("mini", data.class_names, seed=1).eval()
    whole = list(predicted_masks(segmenter, data, 32, batch_size=2))
    assert [mask.shape for mask in whole] == [(64, 64)] * 3 and all(IGNORE_LABEL not in mask for mask in whole)
    doubtful = list(predicted_masks(segmenter, data, 32, threshold=0.5))
    for mask, kept in zip(whole, doubtful):
        assert ((kept == mask) | (kept == IGNORE_LABEL)).all()
    assert all((mask == IGNORE_LABEL).all() for mask in predicted_masks(segmenter, data, 32, threshold=1.1))


def test_quality_is_that_of_the_masks_pixel_by_pixel():
    data = load_masked_images("mini:3:1")
    segmenter = build_segmenter("mini", data.class_names, seed=1).eval()
    truth = np.stack([np.asarray(row["mask"]) for row in data.rows])
    found = np.stack(list(predicted_masks(segmenter, data, 64)))
    quality = measure(segmenter, data, 64, batch_size=2)
    assert quality.pixel_accuracy == pytest.approx((truth == found).mean())
    background = ((truth == 0) & (found == 0)).sum() / ((truth == 0) | (found == 0)).sum()
    assert quality.iou[0] == pytest.approx(background)

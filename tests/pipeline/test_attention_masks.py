"""Maps to masks, against the paper's formula written out and against small cases worked by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ubgen_pipeline.annotations import annotate
from ubgen_pipeline.attention_maps import RecordedAttention
from ubgen_pipeline.attention_masks import attention_mask, heat_maps, min_max
from ubgen_pipeline.mask_settings import PAPER, SMALL, MaskSettings, check_annotations, default_mask_settings


def random_recording(batch=2, classes=2):
    torch.manual_seed(0)
    return RecordedAttention(
        {(4, 4): torch.rand(batch, classes, 4, 4)}, (4 * torch.randn(batch, 64, 64)).softmax(-1), (8, 8)
    )


@pytest.mark.parametrize("power", [0, 1, 4])
def test_heat_maps_are_the_papers(power):
    recorded = random_recording()
    found = heat_maps(recorded, MaskSettings(self_power=power), (32, 32))
    assert found.shape == (2, 2, 32, 32)
    for sample in range(2):
        upsampled = F.interpolate(recorded.cross_maps[4, 4][sample][None], (8, 8), mode="bicubic")[0]
        # in double precision: the power leaves little contrast
        affinity = torch.matrix_power(recorded.self_map[sample].double(), power)
        refined = affinity @ upsampled.reshape(2, 64).T.double()
        for number in range(2):
            scores = refined[:, number].reshape(8, 8)
            scores = ((scores - scores.min()) / (scores.max() - scores.min())).float()
            expected = F.interpolate(scores[None, None], (32, 32), mode="bicubic")[0, 0].clamp(0, 1)
            torch.testing.assert_close(found[sample, number], expected, rtol=0, atol=1e-5)


def test_inverted_maps_and_several_levels():
    recorded = random_recording()
    settings = MaskSettings(self_power=0)
    torch.testing.assert_close(
        heat_maps(recorded, MaskSettings(self_power=0, invert=True), (8, 8)), 1 - heat_maps(recorded, settings, (8, 8))
    )
    both = RecordedAttention({(4, 4): recorded.cross_maps[4, 4], (8, 8): torch.zeros(2, 2, 8, 8)}, None, (8, 8))
    torch.testing.assert_close(heat_maps(both, settings, (8, 8)), heat_maps(recorded, settings, (8, 8)))


def test_a_flat_map_is_zero_and_not_nan():
    assert not min_max(torch.full((2, 4, 4), 0.3)).any()
    assert torch.equal(min_max(torch.tensor([[1.0, 3.0]])), torch.tensor([[0.0, 1.0]]))


def test_masks_by_hand():
    scores = np.array([[[0.9, 0.55, 0.2, 0.6]], [[0.7, 0.1, 0.5, 0.65]]], dtype=np.float32)
    found = attention_mask(scores, MaskSettings())
    assert found.mask.tolist() == [[1, 255, 255, 2]] and found.mask.dtype == np.uint8
    assert attention_mask(scores, MaskSettings(ignore_threshold=None)).mask.tolist() == [[1, 0, 0, 2]]
    assert attention_mask(scores, MaskSettings(ignore_threshold=0.6)).mask.tolist() == [[1, 0, 0, 2]]
    np.testing.assert_allclose(found.confidence, [[0.3 / 0.4, 0.05 / 0.6, 0.1 / 0.6, 0.05 / 0.4]], rtol=1e-4)


def test_labels_and_blackened_images():
    recorded = random_recording(batch=2, classes=2)
    first, second = annotate(recorded, MaskSettings(min_area=0), (16, 16), [[7, 3], [0]], blackened=[False, True])
    assert set(np.unique(first.mask)) <= {0, 4, 8, 255} and {4, 8} & set(np.unique(first.mask))
    assert {item.value for item in first.objects} == set(np.unique(first.mask)) - {0, 255}
    assert (second.mask == 255).all() and not second.objects and second.heat_maps.shape == (1, 16, 16)
    with pytest.raises(ValueError, match="label 254; masks of eight bits hold 254 classes"):
        annotate(recorded, MaskSettings(), (16, 16), [[254], [0]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0}, "threshold is 0"),
        ({"threshold": 1.1}, "threshold is 1.1"),
        ({"ignore_threshold": 0.7}, "ignore_threshold is 0.7"),
        ({"self_power": 1.5}, "self_power is 1.5"),
        ({"cross_levels": ()}, "cross_levels is"),
        ({"self_level": -1}, "self_level -1"),
        ({"first_step": 0.5, "last_step": 0.5}, "first_step is 0.5"),
        ({"min_area": 1}, "min_area is 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        MaskSettings(**settings)


def test_recorded_steps_and_defaults():
    assert MaskSettings().recorded_steps(51) == range(51)
    assert MaskSettings(first_step=0.5).recorded_steps(20) == range(10, 20)
    assert MaskSettings(first_step=0.9).recorded_steps(1) == range(1)
    assert default_mask_settings(4) == PAPER == MaskSettings() and default_mask_settings(2) == SMALL
    assert check_annotations(["box", "mask", "box"]) == ("mask", "box")
    with pytest.raises(ValueError, match="annotations holds 'maks'"):
        check_annotations(["maks"])

"""GPU time that is asked for: it follows what is drawn."""

from dataclasses import replace

import pytest
from gpu_time import IMAGE_SECONDS, PREDICTION_SECONDS, START_SECONDS, check_gpu_seconds, gpu_seconds
from request_limits import DrawRequest

from ubgen_pipeline.models.families import FAMILIES

REQUEST = DrawRequest("star", ("base",), 2, 0, 20, 7.5)
SIZE = 1024 * 1024


def test_times_are_those_of_families():
    # one that is not listed is asked the most for
    assert PREDICTION_SECONDS.keys() <= FAMILIES.keys()


@pytest.mark.parametrize(
    ("changed", "images", "steps", "predictions"),
    [
        ({}, 2, 20, 2),
        ({"num_samples": 8}, 8, 20, 2),
        ({"variants": ("base", "tuned")}, 4, 20, 2),
        ({"num_inference_steps": 50}, 2, 50, 2),
        ({"guidance_scale": None}, 2, 20, 1),
    ],
)
@pytest.mark.parametrize("family", ["sd", "flux", None])
def test_it_follows_images_steps_and_family(family, changed, images, steps, predictions):
    one = PREDICTION_SECONDS[family] if family else max(PREDICTION_SECONDS.values())
    expected = START_SECONDS + images * (steps * predictions * one + IMAGE_SECONDS) * SIZE / 1e6
    assert expected <= gpu_seconds(family, replace(REQUEST, **changed), SIZE) < expected + 1


def test_a_request_that_would_be_cut_off_is_refused():
    check_gpu_seconds(120, 120)
    with pytest.raises(ValueError, match="about 121 s of a GPU, and at most 120 s"):
        check_gpu_seconds(121, 120)

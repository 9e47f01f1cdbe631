"""The hue read off rendered scenes against the colours that they were drawn with."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest

from ubgen_evaluation import factor_entropy
from ubgen_evaluation.object_hue import NUM_HUES, object_hue
from ubgen_pipeline.mini.scenes import CLASS_NAMES, draw_factors, render_scene, scenes


def sector(colour):
    return round(colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))[0] * NUM_HUES) % NUM_HUES


def test_hue_is_one_of_the_two_that_the_object_was_drawn_with():
    drawn = list(scenes(300, bias=0.0, seed=5))
    read = object_hue(np.stack([scene.image for scene in drawn]))
    near = 0
    for scene, hue in zip(drawn, read):
        # at the edge of a sector grain may tip it to the next one
        near += any((hue - sector(colour) + 1) % NUM_HUES <= 2 for colour in scene.factors.colours)
    assert near >= 295
    assert set(read) >= set(range(NUM_HUES))


@pytest.mark.parametrize("hue", range(NUM_HUES))
def test_each_hue_of_a_plain_object_on_grey(hue):
    image = np.full((1, 64, 64, 3), 128, np.uint8)
    image[0, 20:44, 20:44] = np.round(255 * np.array(colorsys.hsv_to_rgb(hue / NUM_HUES, 1, 1)))
    assert object_hue(image).tolist() == [hue]


def test_grey_object_and_empty_image_have_no_hue():
    grey = np.full((64, 64, 3), 20, np.uint8)
    grey[20:44, 20:44] = 200
    assert object_hue(np.stack([grey, np.full((64, 64, 3), 77, np.uint8)])).tolist() == [NUM_HUES, NUM_HUES]


def test_entropy_tells_one_colour_for_all_from_any_colour():
    rng = np.random.default_rng(3)
    labels = np.arange(200) % 10
    free = object_hue(np.stack([scene.image for scene in scenes(200, bias=0.0, seed=9)]))
    purple = []
    for label in labels:
        factors = draw_factors(CLASS_NAMES[label], bias=0.0, rng=rng, background="snow")
        purple.append(render_scene(replace(factors, colours=((128, 0, 128), (140, 0, 150)))).image)
    tied = factor_entropy(object_hue(np.stack(purple)), NUM_HUES + 1, labels, 10).mean
    assert tied < 0.3
    # 20 images of a class fill twelve sectors less evenly than many would
    assert factor_entropy(free, NUM_HUES + 1, labels, 10).mean > 2.7


@pytest.mark.parametrize("images", [np.zeros((2, 64, 64), np.uint8), np.zeros((2, 64, 64, 3), np.float32)])
def test_other_arrays_are_refused(images):
    with pytest.raises(ValueError, match=r"images must be \(N, H, W, 3\) uint8"):
        object_hue(images)

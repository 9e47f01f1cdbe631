"""What is said and drawn about an image that was clicked."""

import shlex

import numpy as np
import pytest
from image_details import available_layers, draw_layers, image_command, image_facts
from request_limits import DrawRequest
from sampler import Cancellation, DrawnSample, Sampler
from space_settings import SpaceSettings

from ubgen_pipeline.commands.settings_parser import parse_settings
from ubgen_pipeline.generation.settings import GenerateSettings


@pytest.fixture(scope="module")
def settings():
    return SpaceSettings()


@pytest.fixture(scope="module")
def sampler(settings):
    return Sampler(settings)


@pytest.mark.parametrize("name", ["--help", "-x y", "a 'b' $c"])
def test_a_name_like_a_flag_is_still_a_name(sampler, settings, name):
    request = DrawRequest(name, ("base",), 1, 1, 1, 1.0)
    words = shlex.split(image_command(DrawnSample(request, "base", 0, name, 1, None), settings))
    options = parse_settings(GenerateSettings, words[2:], prog="ubgen generate", description=None)
    assert options.class_names == [name] and options.seed == 1


def test_details_of_a_sample(sampler, settings):
    (sample,) = sampler.draw(DrawRequest("ring", ("base",), 1, 1, 1, 1.0), Cancellation())
    facts = image_facts(sample)
    assert facts["prompt"] == "ring" and facts["seed"] == sample.seed and facts["size"] == "64 x 64"
    assert available_layers(sample) == [] and "--lora" not in image_command(sample, settings)
    annotated = DrawnSample(
        sample.request, "base", 0, "ring", 1, sample.image, np.ones((64, 64), np.uint8), np.array([[1, 2, 3, 4]])
    )
    assert available_layers(annotated) == ["Mask", "Boxes"] and image_facts(annotated)["boxes"] == "(1, 2, 3, 4)"
    plain, masked = (np.asarray(draw_layers(annotated, layers)) for layers in ([], ["Mask"]))
    assert (plain != masked).any() and np.array_equal(plain, np.asarray(draw_layers(sample, ["Mask", "Boxes"])))
    assert "--annotations" in shlex.split(image_command(annotated, settings))

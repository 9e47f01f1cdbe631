"""Masks by a segmenter that takes words: SAM 3, as small as its configuration allows."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Sam3Model

from support.tiny_labellers import sam3
from ubgen_pipeline.labelling.build_annotator import build_annotator
from ubgen_pipeline.mini.scenes import scenes

NAMES = ["circle", "star"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam3")
    sam3(str(folder))
    return str(folder)


@pytest.fixture
def image():
    return Image.fromarray(next(scenes(1, bias=0.0, seed=1)).image)


def test_objects_are_those_of_transformers_own_call(model, image):
    network, processor = Sam3Model.from_pretrained(model).eval(), AutoProcessor.from_pretrained(model)
    expected = []
    for phrase in ("red circle", "star"):
        inputs = processor(images=image, text=phrase, return_tensors="pt")
        with torch.no_grad():
            output = network(**inputs)
        one = processor.post_process_instance_segmentation(output, threshold=0.0, target_sizes=[(64, 64)])[0]
        expected.append([(score, mask.bool().numpy()) for score, mask in zip(one["scores"].tolist(), one["masks"])])
    labelling = build_annotator(model, NAMES, {"red circle": "circle"}, threshold=0.0, min_area=0.0)(image)
    assert {item.value for item in labelling.objects} == {1, 2}
    for item in labelling.objects:
        assert any(
            score == pytest.approx(item.score, abs=1e-6) and np.array_equal(mask, item.region)
            for score, mask in expected[item.value - 1]
        )
        assert item.area == item.region.sum()
    # the smaller object lies on top
    smallest = min(labelling.objects, key=lambda item: item.area)
    assert labelling.mask is not None and (labelling.mask[smallest.region] == smallest.value).all()


def test_only_the_own_class_is_asked_for(model, image):
    annotator = build_annotator(model, NAMES, threshold=0.0, min_area=0.0)
    assert {item.value for item in annotator(image, 1).objects} == {2}


def test_nothing_is_found_above_the_threshold(model, image):
    labelling = build_annotator(model, NAMES, threshold=0.99)(image)
    assert labelling.objects == [] and labelling.mask is not None and not labelling.mask.any()


def test_a_phrase_that_is_too_long_is_refused(model):
    with pytest.raises(ValueError, match="tokens, and the model reads 32; give a shorter word"):
        build_annotator(model, [" ".join(["star"] * 40)])

"""Segmenters as modules: the scores of their classes, saved and loaded, and what does not segment."""

import json

import pytest
import torch

from support.tiny_labellers import segformer
from ubgen_pipeline.models.segmenter import BUILT_NAMES, build_segmenter, load_segmenter, read_config

NAMES = ["star", "ring"]


def test_a_prediction_is_the_most_probable_class_of_each_pixel():
    segmenter = build_segmenter("mini", NAMES, seed=3).eval()
    images = torch.rand(2, 3, 32, 64)
    found = segmenter.predict(images)
    with torch.no_grad():
        probabilities = segmenter.class_scores(segmenter(images), (32, 64)).softmax(dim=1)
    assert segmenter.num_classes == 3 == probabilities.shape[1] and found.masks.shape == (2, 32, 64)
    assert found.masks.dtype == torch.uint8 and torch.equal(found.masks.long(), probabilities.argmax(dim=1))
    torch.testing.assert_close(found.confidence, probabilities.amax(dim=1))


def test_the_seed_decides_the_weights_and_leaves_the_callers_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = (build_segmenter("mini", NAMES, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    weights = [torch.cat([value.flatten() for value in item.network.parameters()]) for item in (one, two, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_saved_and_loaded_it_is_the_same(tmp_path):
    segmenter = build_segmenter("mini", NAMES, seed=3).eval()
    segmenter.save(tmp_path / "m")
    assert read_config(tmp_path / "m") == {"model_type": "mini", "class_names": NAMES}
    loaded, images = load_segmenter(tmp_path / "m"), torch.rand(1, 3, 32, 32)
    assert loaded.class_names == NAMES and not loaded.training
    assert torch.equal(loaded.predict(images).confidence, segmenter.predict(images).confidence)
    # training goes on with its weights, for the same classes only
    assert build_segmenter(str(tmp_path / "m"), NAMES).training
    with pytest.raises(ValueError, match="trained on star, ring; a segmenter of this kind can only go on"):
        build_segmenter(str(tmp_path / "m"), ["other"])


def test_scores_come_at_the_size_that_is_asked_for(tmp_path):
    segformer(tmp_path / "m", ["background", *NAMES])
    segmenter = load_segmenter(tmp_path / "m")
    with torch.no_grad():
        output = segmenter(torch.rand(1, 3, 64, 64))
        # SegFormer's own maps are a quarter of the image
        assert output.logits.shape[-2:] == (16, 16)
        assert segmenter.class_scores(output, (64, 64)).shape == (1, 3, 64, 64)


def test_what_does_not_segment_is_named(tmp_path):
    with pytest.raises(ValueError, match="class_names is empty"):
        build_segmenter("mini", [])
    with pytest.raises(ValueError, match=f"could not be loaded as a segmenter; give one of {', '.join(BUILT_NAMES)}"):
        load_segmenter(tmp_path)
    segformer(tmp_path / "m", ["sky", "star"])
    with pytest.raises(ValueError, match="whose class 0 is 'sky' and no background"):
        load_segmenter(tmp_path / "m")
    build_segmenter("mini", NAMES).save(tmp_path / "broken")
    config = json.loads((tmp_path / "broken" / "config.json").read_text())
    (tmp_path / "broken" / "config.json").write_text(json.dumps({**config, "class_names": ["star"]}))
    with pytest.raises(ValueError, match="whose weights could not be read"):
        load_segmenter(tmp_path / "broken")

"""Scores of one image against the libraries' own computation, whoever else is scored."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from support.tiny_clip import build_tiny_clip, build_tiny_open_clip
from support.tiny_safety_checker import build_safety_checker, concept_cosine, save_safety_checker
from ubgen_pipeline.mini.scenes import CLASS_NAMES, scenes
from ubgen_pipeline.scoring.duplicates import hash_text, perceptual_hash
from ubgen_pipeline.scoring.image_scorer import ClipScorer, ImageScorer, SafetyFlagger
from ubgen_pipeline.scoring.settings import ScoreSettings

NAMES = list(CLASS_NAMES)
TEMPLATE = "a photo of a {name}"


@pytest.fixture(scope="module")
def drawn():
    return [
        (Image.fromarray(item.image), NAMES.index(item.factors.class_name)) for item in scenes(12, bias=0.0, seed=4)
    ]


def png(image):
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def scorer(settings, own_checker=False):
    return ImageScorer(settings, NAMES, generator="mini", own_checker=own_checker, device="cpu")


def test_a_clip_of_transformers_scores_as_the_library_does(drawn, tmp_path):
    folder = build_tiny_clip(tmp_path)
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPImageProcessor.from_pretrained(folder)
    texts = AutoTokenizer.from_pretrained(folder)(
        [TEMPLATE.format(name=name) for name in NAMES], padding=True, return_tensors="pt"
    )
    score = ClipScorer(folder, NAMES, TEMPLATE)
    for image, label in drawn[:4]:
        with torch.no_grad():
            logits = model(**texts, **processor(images=image, return_tensors="pt")).logits_per_image[0]
        found = score(image, label)
        assert found.score == pytest.approx(float(logits[label]) / float(model.logit_scale.detach().exp()), abs=2e-3)
        assert found.label == int(logits.argmax())
        assert found.probability == pytest.approx(float(logits.softmax(0).max()), abs=2e-3)


def test_a_clip_of_open_clip_loads(drawn, tmp_path):
    found = ClipScorer(build_tiny_open_clip(tmp_path / "clip"), NAMES, TEMPLATE)(*drawn[0])
    assert -1 <= found.score <= 1 and 0 < found.probability <= 1


def test_the_mini_clip_knows_its_classes(drawn):
    score = ClipScorer("mini", NAMES, TEMPLATE)
    right = [score(image, label).label == label for image, label in drawn]
    assert np.mean(right) >= 0.9
    image, label = drawn[0]
    assert score(image, label).score > score(image, (label + 1) % len(NAMES)).score


def test_classes_of_one_name_are_not_mistaken_for_each_other(drawn):
    image, label = drawn[0]
    name = NAMES[label]
    score = ClipScorer("mini", [name, "heart" if name != "heart" else "star", name], TEMPLATE)
    assert [score(image, own).label for own in (0, 1, 2)] == [0, 0, 2]
    assert score(image, 0).score == score(image, 2).score > score(image, 1).score


def test_a_score_depends_on_no_other_image(drawn, tmp_path):
    checker = save_safety_checker(tmp_path, [image for image, _ in drawn])
    settings = ScoreSettings(scores=["clip", "duplicates", "safety"], safety_checker=checker)
    first, second = scorer(settings), scorer(settings)
    forward = [first(png(image), label, None) for image, label in drawn]
    backward = [second(png(image), label, None) for image, label in reversed(drawn)]
    alone = [scorer(ScoreSettings(scores=["clip"]))(png(image), label, None) for image, label in drawn[:1]]
    assert forward == backward[::-1]
    assert all(forward[0][name] == value for name, value in alone[0].items())
    assert {row["nsfw_content_detected"] for row in forward} == {True, False}
    assert [row["perceptual_hash"] for row in forward] == [hash_text(perceptual_hash(image)) for image, _ in drawn]


def test_the_checkers_own_verdict(drawn, tmp_path):
    images = [image for image, _ in drawn]
    model, processor = build_safety_checker(images)
    threshold = float(model.concept_embeds_weights[0])
    # a checker by itself, and a model's folder with one
    alone = save_safety_checker(tmp_path / "alone", images)
    model.save_pretrained(tmp_path / "model" / "safety_checker")
    processor.save_pretrained(tmp_path / "model" / "feature_extractor")
    expected = [round(concept_cosine(model, processor, image) - threshold, 3) > 0 for image in images]
    assert 2 < sum(expected) < 10
    for source in (alone, str(tmp_path / "model")):
        flagger = SafetyFlagger(source)
        before = [np.array(image) for image in images]
        assert [flagger(image) for image in images] == expected
        assert all(np.array_equal(image, array) for image, array in zip(images, before))


def test_a_black_image_has_a_flag_and_no_scores(drawn):
    settings = ScoreSettings(scores=["clip", "duplicates", "safety"])
    found = scorer(settings, own_checker=True)(png(Image.new("RGB", (64, 64))), 1, True)
    assert found == {
        "clip_score": None, "zero_shot_label": None, "zero_shot_probability": None, "perceptual_hash": None,
        "nsfw_content_detected": True,
    }  # fmt: skip
    assert scorer(settings, own_checker=True)(png(drawn[0][0]), 1, None)["nsfw_content_detected"] is False


def test_models_load_only_where_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(
        "ubgen_pipeline.scoring.image_scorer.load_clip_encoder", lambda name: pytest.fail("a CLIP was loaded")
    )
    scorer(ScoreSettings(scores=["duplicates"]))


def test_models_that_are_not_there(tmp_path, mini_model):
    with pytest.raises(ValueError, match="clip_model '/nowhere'"):
        scorer(ScoreSettings(scores=["clip"], clip_model="/nowhere"))
    with pytest.raises(ValueError, match="no safety checker of its own"):
        scorer(ScoreSettings(scores=["safety"]))
    # weights of another kind would leave the checker's own at random
    for source in ("/nowhere", mini_model, build_tiny_clip(tmp_path)):
        with pytest.raises(ValueError, match="safety_checker is"):
            SafetyFlagger(source)

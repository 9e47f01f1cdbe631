"""Decisions of a zero-shot classifier and of a detector, against what transformers says of the same images."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from support.tiny_labellers import owlv2
from ubgen_pipeline.mini.scenes import CLASS_NAMES, scenes
from ubgen_pipeline.models.clip_encoders import load_clip_encoder
from ubgen_training.reward_training.build_rewards import build_reward, probe_rewards
from ubgen_training.rewards.recognition import DetectionReward, RecognitionReward
from ubgen_training.rewards.reward_functions import call_reward


@pytest.fixture(scope="module")
def drawn():
    """Images of ten scenes and their labels."""
    rendered = list(scenes(10, bias=0.0, seed=4))
    pixels = np.stack([scene.image for scene in rendered])
    labels = torch.tensor([CLASS_NAMES.index(scene.factors.class_name) for scene in rendered])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, labels


def names_of(labels):
    return [CLASS_NAMES[label] for label in labels.tolist()]


def test_the_right_class_counts_and_the_wrong_one_does_not(drawn):
    images, labels = drawn
    reward = RecognitionReward(load_clip_encoder("mini"), CLASS_NAMES)
    assert call_reward(reward, images, names_of(labels), labels, step=0).mean() > 0.9
    wrong = (labels + 1) % len(CLASS_NAMES)
    assert call_reward(reward, images, names_of(wrong), wrong, step=0).mean() < 0.1


def test_one_class_leaves_nothing_to_decide():
    with pytest.raises(ValueError, match="reward 'recognised' decides among classes, and class_names holds 1"):
        RecognitionReward(load_clip_encoder("mini"), ["circle"])


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("owlv2")
    owlv2(folder, CLASS_NAMES)
    return folder


def test_a_detection_is_the_surest_of_its_class(detector, drawn):
    images, labels = drawn[0][:2], drawn[1][:2]
    reward = build_reward(f"detector:{detector}", None, None, CLASS_NAMES)
    assert isinstance(reward, DetectionReward) and reward.__name__ == f"detected_{detector.name}"
    found = call_reward(reward, images, names_of(labels), labels, step=0)
    model, processor = (
        kind.from_pretrained(detector) for kind in (AutoModelForZeroShotObjectDetection, AutoProcessor)
    )
    for value, image, name in zip(found, images, names_of(labels)):
        picture = Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy())
        inputs = processor(text=[[f"a photo of a {name}"]], images=picture, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits
        assert value.item() == pytest.approx(logits.sigmoid().max().item(), rel=1e-2)
    probe_rewards([reward], CLASS_NAMES, height=64, width=64, differentiable=False)


def test_no_detector_is_named():
    with pytest.raises(ValueError, match="reward_funcs holds 'detector:no/such', which cannot be loaded"):
        DetectionReward("no/such")


def test_decisions_cannot_train_by_back_propagation(drawn):
    reward = RecognitionReward(load_clip_encoder("mini"), CLASS_NAMES)
    with pytest.raises(ValueError, match="reward 'recognised' is not differentiable"):
        probe_rewards([reward], CLASS_NAMES, height=64, width=64)

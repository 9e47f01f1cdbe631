"""The contrastive reward against transformers' own CLIP loss, and where its values lie."""

import math

import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from support.tiny_clip import build_tiny_clip
from ubgen_pipeline.models.clip_encoders import load_clip_encoder
from ubgen_training.rewards.clip_contrast import ClipContrastReward

NAMES = ["circle", "star", "ring"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return build_tiny_clip(tmp_path_factory.mktemp("clip"))


def test_values_are_those_of_the_librarys_zero_shot_classifier(clip_folder):
    encoder, model = load_clip_encoder(clip_folder), CLIPModel.from_pretrained(clip_folder).eval()
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([2, 0, 1, 1])
    reward = ClipContrastReward(encoder, NAMES, "a photo of a {name}")
    found = reward(images, [NAMES[label] for label in labels], labels)
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(
        [f"a photo of a {name}" for name in NAMES], return_tensors="pt"
    )
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    with torch.no_grad():
        logits = model(**tokens, pixel_values=(images - mean) / std).logits_per_image
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(found, 1 - losses / math.log(3), rtol=1e-4, atol=1e-5)
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert not math.isclose(encoder.logit_scale, 1.0)


class _Encoder:
    """Texts along three axes, and cosines that count ten times."""

    logit_scale = 10.0

    def encode_texts(self, texts):
        return 2 * torch.eye(3)[: len(texts)]


def test_an_image_of_its_text_alone_has_the_value_one_and_one_like_all_texts_zero():
    reward = ClipContrastReward(_Encoder(), NAMES)
    features = torch.tensor([[5.0, 0, 0], [1.0, 1, 1], [0, 1.0, 0]], requires_grad=True)
    values = reward.values(features, torch.tensor([0, 0, 0]))
    sure, alike, other = values.tolist()
    assert sure == pytest.approx(1, abs=1e-3) and alike == pytest.approx(0, abs=1e-6) and other < -5
    # content where it is sure, but not where the image is of another text or of all
    (gradient,) = torch.autograd.grad(values.sum(), features)
    sizes = gradient.norm(dim=1)
    assert sizes[0] < 0.01 * sizes[1] and sizes[2] > sizes[1] > 0


def test_one_class_alone_is_refused():
    with pytest.raises(ValueError, match="'clip_contrast' decides among classes, and class_names holds 1"):
        ClipContrastReward(_Encoder(), ["circle"])

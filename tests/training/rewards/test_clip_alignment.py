"""The CLIP alignment reward against its definition, and CLIP encoders against their libraries."""

import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from support.tiny_clip import build_tiny_clip
from ubgen_pipeline.models.clip_encoders import load_clip_encoder
from ubgen_training.rewards.clip_alignment import ClipAlignmentReward

NAMES = ["circle", "star", "ring"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return build_tiny_clip(tmp_path_factory.mktemp("clip"))


def test_encoder_gives_the_librarys_unnormalised_features(clip_folder):
    encoder, model = load_clip_encoder(clip_folder), CLIPModel.from_pretrained(clip_folder).eval()
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(NAMES, padding=True, return_tensors="pt")
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    with torch.no_grad():
        texts = model.get_text_features(**tokens).pooler_output
        expected = model.get_image_features(pixel_values=(images - mean) / std).pooler_output
    assert torch.allclose(encoder.encode_texts(NAMES), texts, atol=1e-6)
    assert torch.allclose(encoder.encode_images(images), expected, atol=1e-5)
    assert not torch.allclose(expected.norm(dim=1), torch.ones(2), atol=1e-2)
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


def test_reward_is_the_cosine_of_matching_pairs(clip_folder):
    encoder = load_clip_encoder(clip_folder)
    reward, images, labels = ClipAlignmentReward(encoder, NAMES), torch.rand(2, 3, 64, 64), torch.tensor([2, 0])
    image_features = encoder.encode_images(images)
    text_features = encoder.encode_texts(["photo of ring", "photo of circle"])
    image_unit = image_features / image_features.norm(dim=1, keepdim=True)
    text_unit = text_features / text_features.norm(dim=1, keepdim=True)
    values = reward(images, ["ring", "circle"], labels)
    assert torch.allclose(values, (image_unit * text_unit).sum(dim=1), atol=1e-6)
    everything = ClipAlignmentReward(encoder, NAMES, pairing="all")(images, ["ring", "circle"], labels)
    assert torch.allclose(everything, (image_unit @ text_unit.T).mean(dim=1), atol=1e-6)
    assert not torch.allclose(values, everything)


@pytest.mark.parametrize("pairing", ["matching", "all"])
def test_a_negative_prompt_takes_its_similarity_off(clip_folder, pairing):
    encoder = load_clip_encoder(clip_folder)
    images, labels, names = torch.rand(2, 3, 64, 64), torch.tensor([2, 0]), ["ring", "circle"]
    relative = ClipAlignmentReward(encoder, NAMES, pairing=pairing, negative_prompt="dark {name}")
    positive, negative = (
        ClipAlignmentReward(encoder, NAMES, prompt, pairing)(images, names, labels)
        for prompt in ("photo of {name}", "dark {name}")
    )
    assert not torch.allclose(positive, negative)
    torch.testing.assert_close(relative(images, names, labels), positive - negative)


def test_reward_takes_features_already_computed(clip_folder):
    encoder = load_clip_encoder(clip_folder)
    reward, images, labels = ClipAlignmentReward(encoder, NAMES), torch.rand(2, 3, 64, 64), torch.tensor([1, 1])
    given = reward(torch.zeros_like(images), NAMES[:2], labels, image_features=encoder.encode_images(images))
    assert torch.equal(given, reward(images, NAMES[:2], labels))


def test_gradient_reaches_pixels_out_of_range(clip_folder):
    images = torch.full((1, 3, 64, 64), 1.2) + 0.1 * torch.rand(1, 3, 64, 64)
    images.requires_grad_(True)
    reward = ClipAlignmentReward(load_clip_encoder(clip_folder), NAMES)
    (gradient,) = torch.autograd.grad(reward(images, ["star"], torch.tensor([1])).sum(), images)
    assert (gradient != 0).float().mean() > 0.9


@pytest.mark.parametrize("name", ["no/such/clip/folder", "open_clip:ViT-B-32", "open_clip:NoSuch/tag"])
def test_unknown_clip_is_named(name):
    with pytest.raises(ValueError, match=f"clip_model '{name}' cannot be loaded"):
        load_clip_encoder(name)


def test_bad_settings_are_named(clip_folder):
    encoder = load_clip_encoder(clip_folder)
    with pytest.raises(ValueError, match="alignment_pairs is 'some'"):
        ClipAlignmentReward(encoder, NAMES, pairing="some")
    with pytest.raises(ValueError, match="clip_prompt is 'photo'"):
        ClipAlignmentReward(encoder, NAMES, prompt="photo")
    with pytest.raises(ValueError, match="clip_negative_prompt is 'bad photo'"):
        ClipAlignmentReward(encoder, NAMES, negative_prompt="bad photo")

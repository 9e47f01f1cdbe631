"""Rewards of CLIP features: images are encoded where nobody did, and a reward gets features and labels."""

import pytest
import torch

from ubgen_training.rewards.clip_reward import ClipReward


class Encoder:
    """An image's feature is its mean colour."""

    num_calls = 0

    def encode_images(self, images):
        self.num_calls += 1
        return images.mean(dim=(2, 3))


class Channel(ClipReward):
    """The feature's value in the channel of the class."""

    def __init__(self):
        self.encoder = Encoder()

    def values(self, features, labels):
        assert labels.device == features.device
        return features.gather(1, labels[:, None])[:, 0]


IMAGES = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, 0])


def test_images_are_encoded_with_their_gradient():
    reward, images = Channel(), IMAGES.clone().requires_grad_()
    values = reward(images, ["a", "b"], LABELS, seeds=[1, 2], step=3)
    torch.testing.assert_close(values, torch.stack([IMAGES[0, 2].mean(), IMAGES[1, 0].mean()]))
    (gradient,) = torch.autograd.grad(values.sum(), images)
    expected = torch.zeros_like(IMAGES)
    expected[0, 2] = expected[1, 0] = 1 / 16
    torch.testing.assert_close(gradient, expected)


def test_given_features_are_taken_and_nothing_is_encoded():
    reward, features = Channel(), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert reward(IMAGES, ["a", "b"], LABELS, image_features=features).tolist() == [3.0, 4.0]
    assert reward.encoder.num_calls == 0


def test_a_reward_without_values_says_so():
    with pytest.raises(NotImplementedError):
        ClipReward()(IMAGES, ["a", "b"], LABELS, image_features=torch.zeros(2, 3))

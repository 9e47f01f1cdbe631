"""Gradients by micro-batches equal those of the whole batch: alone in double precision, and in the full loss."""

import pytest
import torch
from torch import nn

from ubgen_training.rewards.clip_alignment import ClipAlignmentReward
from ubgen_training.rewards.quality import QualityReward
from ubgen_training.ubgen.adversarial_term import AdversarialTerm
from ubgen_training.ubgen.micro_batches import MicroBatches
from ubgen_training.ubgen.ubgen_loss import UbGenLoss

NAMES = ["circle", "star", "ring", "heart"]
LABELS = torch.tensor([3, 0, 0, 2, 1])
SIZES = [1, 2, 3, 5, 7, None]


class ToyEncoder:
    """A curved map of pixels to eight features, and fixed text features; counts the images of every call."""

    def __init__(self):
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 8)).double()
        self.layers.requires_grad_(False)
        self.sizes = []

    def encode_images(self, images):
        self.sizes.append(len(images))
        return self.layers(images)

    def encode_texts(self, texts):
        return torch.randn(len(texts), 8, dtype=torch.float64, generator=torch.Generator().manual_seed(len(texts)))


def images():
    return torch.rand(5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", SIZES)
def test_gradients_of_both_kinds_of_term_equal_autograd(size):
    encoder, mixing = ToyEncoder(), torch.randn(5, 5, dtype=torch.float64)

    def whole_term(pixels, features):
        # couples every image with every other, through the features and directly
        return (mixing * (features @ features.T)).sin().sum() + pixels.mean(dim=0).square().sum()

    def own_term(pixels, features):
        return features.square().sum() + pixels.pow(3).sum()

    batch = MicroBatches(images(), size, encoder.encode_images)
    with torch.enable_grad():
        whole = batch.whole()
        batch.differentiate("whole", whole_term(whole.pixels, whole.features), whole)
        for part in batch:
            assert len(part.pixels) <= (size or 5)
            batch.differentiate("own", own_term(part.pixels, part.features), part)
    for name, term in {"whole": whole_term, "own": own_term}.items():
        pixels = images().requires_grad_()
        (expected,) = torch.autograd.grad(term(pixels, encoder.encode_images(pixels)), pixels)
        torch.testing.assert_close(batch.gradient(name), expected, rtol=1e-12, atol=1e-12)
    assert not batch.gradient("never differentiated").any()


def test_one_micro_batch_encodes_once_and_several_twice():
    encoder = ToyEncoder()
    list(MicroBatches(images(), None, encoder.encode_images))
    assert encoder.sizes == [5]
    encoder.sizes.clear()
    list(MicroBatches(images(), 2, encoder.encode_images))
    assert encoder.sizes == [2, 2, 1] * 2


def losses(size, pairing):
    """(report, gradient at the images, the discriminator's weights after its step, images per call of the scorer)."""
    encoder, scored = ToyEncoder(), []
    scorer = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))

    def levels(pixels):
        scored.append(len(pixels))
        return scorer(pixels)

    rewards = [ClipAlignmentReward(encoder, NAMES, pairing=pairing), QualityReward(levels)]
    term = AdversarialTerm(encoder.encode_texts(NAMES), seed=5)
    loss = UbGenLoss(rewards, [1.0, 0.1], encoder=encoder, adversarial=term, micro_batch_size=size)
    pixels = images().float().requires_grad_()
    encoder.layers.float()
    for reward in rewards[:1]:
        reward.text_features = reward.text_features.float()
    generator = torch.Generator().manual_seed(9)
    names = [NAMES[label] for label in LABELS]
    report = loss(pixels, names, LABELS, generator=generator, seeds=list(range(5)))
    (gradient,) = torch.autograd.grad(report.loss, pixels)
    weights = torch.cat([p.detach().flatten() for p in term.discriminator.parameters()])
    return report, gradient, weights, scored


@pytest.mark.parametrize("pairing", ["matching", "all"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_full_loss_is_that_of_the_whole_batch(size, pairing):
    """The adversarial term, its discriminator's step and a reward over all pairs read the whole batch regardless."""
    torch.manual_seed(2)
    report, gradient, weights, scored = losses(size, pairing)
    torch.manual_seed(2)
    expected, expected_gradient, expected_weights, whole = losses(None, pairing)
    assert max(scored) == size and sum(scored) == 5 and whole == [5]
    assert report.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-6)
    assert list(report.metrics) == list(expected.metrics)
    assert report.loss.item() == pytest.approx(expected.loss.item(), abs=1e-6)
    assert expected_gradient.norm() > 0
    assert (gradient - expected_gradient).norm() < 1e-5 * expected_gradient.norm()
    torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-7)


def test_a_reward_over_all_pairs_would_not_be_a_sum_over_micro_batches():
    """What the test above would miss if the reward took micro-batches."""
    reward = ClipAlignmentReward(ToyEncoder(), NAMES, pairing="all")
    values = reward(images(), [], LABELS)
    parts = torch.cat([reward(images()[rows], [], LABELS[rows]) for rows in (slice(0, 2), slice(2, 5))])
    assert (values - parts).abs().max() > 1e-3


def test_seeds_and_names_of_a_micro_batch_are_its_own():
    seen = []

    def brightness(pixels, class_names, labels, seeds, **_):
        seen.append((class_names, labels.tolist(), seeds))
        return pixels.mean(dim=(1, 2, 3))

    UbGenLoss([brightness], micro_batch_size=2)(
        images().requires_grad_(), list("abcde"), LABELS, generator=torch.Generator(), seeds=[5, 6, 7, 8, 9]
    )
    assert seen == [(["a", "b"], [3, 0], [5, 6]), (["c", "d"], [0, 2], [7, 8]), (["e"], [1], [9])]

"""Orders of channels: what they do to an image and to the gradient of a reward that has a favourite colour."""

import itertools

import pytest
import torch

from ubgen_training.ubgen.channel_order import ordered_channels, random_channel_order
from ubgen_training.ubgen.ubgen_loss import UbGenLoss

ORDERS = list(itertools.permutations(range(3)))


def test_each_image_has_its_channels_in_an_order_of_its_own():
    images = torch.rand(600, 3, 2, 4)
    order = random_channel_order(600, torch.Generator().manual_seed(0))
    shuffled = ordered_channels(images, order)
    found = [
        order for before, after in zip(images, shuffled) for order in ORDERS if torch.equal(before[list(order)], after)
    ]
    assert len(found) == len(images)
    # all six, about as often: 100 each, with a deviation of 9
    counts = [found.count(order) for order in ORDERS]
    assert min(counts) > 60 and max(counts) < 140
    assert torch.equal(ordered_channels(shuffled, order.argsort(dim=1)), images)
    assert torch.equal(order, random_channel_order(600, torch.Generator().manual_seed(0)))
    assert not torch.equal(order, random_channel_order(600, torch.Generator().manual_seed(1)))


def blueness(images, class_names, labels, **kwargs):
    return images[:, 2].mean(dim=(1, 2)) - images[:, 0].mean(dim=(1, 2))


def spread(images, class_names, labels, **kwargs):
    """Of the batch, in red."""
    return images[:, 0].mean(dim=(1, 2)).var().expand(len(images))


spread.reads_whole_batch = True


@pytest.mark.parametrize("micro_batch_size", [None, 700])
def test_a_reward_that_wants_blue_has_no_favourite_and_one_of_sets_sees_what_is_there(micro_batch_size):
    images = torch.rand(3000, 3, 1, 1, requires_grad=True)
    names, labels = ["circle"] * 3000, torch.zeros(3000, dtype=torch.long)
    loss = UbGenLoss([blueness, spread], [1.0, 0.5], micro_batch_size=micro_batch_size)
    order = random_channel_order(3000, torch.Generator().manual_seed(0))
    report = loss(images, names, labels, generator=torch.Generator().manual_seed(0), channel_order=order)
    (gradient,) = torch.autograd.grad(report.loss, images)
    # by hand: blueness through the order, spread as it is
    wanted_values = blueness(ordered_channels(images, order), names, labels), spread(images, names, labels)
    wanted = (1 - wanted_values[0]).mean() + 0.5 * (1 - wanted_values[1]).mean()
    (by_hand,) = torch.autograd.grad(wanted, images)
    torch.testing.assert_close(gradient, by_hand)
    assert report.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    # three times the mean is what each channel of a plain one would get
    plain = loss(images, names, labels, generator=torch.Generator().manual_seed(0))
    (drawn,) = torch.autograd.grad(plain.loss, images)
    assert drawn[:, 1:].mean(dim=(0, 2, 3)).mul(3000).tolist() == pytest.approx([0.0, -1.0])
    assert gradient[:, 1:].mean(dim=(0, 2, 3)).mul(3000).abs().max() < 0.06

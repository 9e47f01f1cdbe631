"""Shuffled channels: what they do to an image and to the gradient of a loss that has a favourite colour."""

import itertools

import torch

from ubgen_training.ubgen.shuffled_channels import shuffle_channels


def test_each_image_has_its_channels_in_an_order_of_its_own():
    images = torch.rand(600, 3, 2, 4)
    shuffled = shuffle_channels(images, torch.Generator().manual_seed(0))
    orders = []
    for before, after in zip(images, shuffled):
        orders += [order for order in itertools.permutations(range(3)) if torch.equal(before[list(order)], after)]
    assert len(orders) == len(images)
    # all six, about as often: 100 each, with a deviation of 9
    counts = [orders.count(order) for order in itertools.permutations(range(3))]
    assert min(counts) > 60 and max(counts) < 140
    assert torch.equal(shuffled, shuffle_channels(images, torch.Generator().manual_seed(0)))
    assert not torch.equal(shuffled, shuffle_channels(images, torch.Generator().manual_seed(1)))


def test_a_loss_that_wants_blue_has_no_favourite_through_them():
    images = torch.rand(3000, 3, 1, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(images[:, 2].sum() - images[:, 0].sum(), images)
    assert gradient.mean(dim=(0, 2, 3)).tolist() == [-1.0, 0.0, 1.0]
    seen = shuffle_channels(images, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(seen[:, 2].sum() - seen[:, 0].sum(), images)
    assert gradient.mean(dim=(0, 2, 3)).abs().max() < 0.06
    assert {*gradient.sum(dim=1).flatten().tolist()} == {0.0}

"""Which labels a rollout shows, and which pairs a pass takes."""

import torch

from ubgen_training.rollouts.pairs import ordered_labels, ordered_partner_share, shuffled_pairs


def test_labels_walk_shuffled_passes_whatever_the_share():
    """Any cut of the sequence, by process or rollout, shows each class once per pass."""
    whole = ordered_labels(0, 20, 5, seed=1)
    pieces = torch.cat([ordered_labels(first, 4, 5, seed=1) for first in range(0, 20, 4)])
    assert torch.equal(whole, pieces)
    assert all(sorted(part.tolist()) == list(range(5)) for part in whole.split(5))
    assert len({tuple(part.tolist()) for part in whole.split(5)}) > 1
    assert not torch.equal(whole, ordered_labels(0, 20, 5, seed=2))


def test_a_pass_takes_every_pair_once():
    pairs = shuffled_pairs(3, 4, 4, torch.Generator().manual_seed(0))
    assert sorted(map(tuple, pairs.tolist())) == [(sample, step) for sample in range(3) for step in range(4)]
    assert pairs[:, 0].tolist() != sorted(pairs[:, 0].tolist())


def test_fewer_trained_steps_are_drawn_for_each_sample():
    pairs = shuffled_pairs(50, 6, 2, torch.Generator().manual_seed(0))
    assert len(set(map(tuple, pairs.tolist()))) == 100
    assert torch.equal(pairs[:, 0].bincount(), torch.full((50,), 2))
    # every position, and no fixed pair of them
    assert (pairs[:, 1].bincount(minlength=6) > 5).all()
    by_sample = pairs[pairs[:, 0].argsort(stable=True), 1].reshape(50, 2).sort(dim=1).values
    assert len(set(map(tuple, by_sample.tolist()))) > 5


def test_the_share_of_labels_with_a_partner():
    assert ordered_partner_share(5, 5, seed=0) == 0 and ordered_partner_share(10, 5, seed=0) == 1
    # of seven in a row, two or more are there twice
    labels = ordered_labels(0, 7, 5, seed=0).tolist()
    assert ordered_partner_share(7, 5, seed=0) == sum(labels.count(label) > 1 for label in labels) / 7 >= 4 / 7

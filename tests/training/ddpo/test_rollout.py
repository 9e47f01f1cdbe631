"""The rollout buffer: what its pairs point to."""

import pytest
import torch

from ubgen_training.ddpo.rollout import Rollout


def test_transitions_are_consecutive_latents():
    latents = torch.arange(2 * 4).reshape(2, 4, 1, 1, 1).float()
    rollout = Rollout(torch.tensor([0, 1]), torch.zeros(2), latents, torch.zeros(2, 3))
    steps = rollout.transitions(torch.tensor([[1, 2], [0, 0]]), torch.device("cpu"))
    assert steps.index.tolist() == [2, 0]
    assert steps.latents.flatten().tolist() == [6.0, 0.0] and steps.next_latents.flatten().tolist() == [7.0, 1.0]
    assert steps.old_means is None


@pytest.mark.parametrize("means", [None, torch.arange(6.0).reshape(2, 3, 1, 1, 1)])
def test_a_rollout_reads_back_what_a_checkpoint_keeps(means):
    rollout = Rollout(torch.tensor([0, 1]), torch.zeros(2), torch.rand(2, 4, 1, 1, 1), torch.zeros(2, 3), means)
    copy = Rollout(**rollout.state_dict())
    for name, value in vars(rollout).items():
        assert value is getattr(copy, name) is None or torch.equal(value, getattr(copy, name))
    if means is not None:
        steps = copy.transitions(torch.tensor([[1, 2], [0, 0]]), torch.device("cpu"))
        assert steps.old_means.flatten().tolist() == [5.0, 0.0]

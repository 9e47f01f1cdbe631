"""The rollout buffer: what its pairs point to."""

import torch

from ubgen_training.ddpo.rollout import Rollout


def test_transitions_are_consecutive_latents():
    latents = torch.arange(2 * 4).reshape(2, 4, 1, 1, 1).float()
    rollout = Rollout(torch.tensor([0, 1]), torch.zeros(2), latents, torch.zeros(2, 3))
    steps = rollout.transitions(torch.tensor([[1, 2], [0, 0]]), torch.device("cpu"))
    assert steps.index.tolist() == [2, 0]
    assert steps.latents.flatten().tolist() == [6.0, 0.0] and steps.next_latents.flatten().tolist() == [7.0, 1.0]
    copy = Rollout(**rollout.state_dict())
    assert all(torch.equal(own, other) for own, other in zip(vars(copy).values(), vars(rollout).values()))

"""Rendered scenes, and batches of them."""

import pytest
import torch

from ubgen_training.mini.scene_batches import index_batches, render_set, to_unit_range


def test_render_set_does_not_depend_on_the_number_of_workers():
    one, two = (render_set(9, bias=0.5, seed=4, num_workers=n) for n in (1, 2))
    assert torch.equal(one.images, two.images) and one.factors == two.factors
    assert to_unit_range(one.images).abs().max() <= 1


@pytest.mark.parametrize("step", [0, 5])
def test_batches_depend_on_seed_and_step_alone(step):
    straight = list(index_batches(100, 4, seed=9, start_step=0, num_steps=8))
    resumed = list(index_batches(100, 4, seed=9, start_step=step, num_steps=8))
    assert all(torch.equal(a, b) for a, b in zip(straight[step:], resumed))

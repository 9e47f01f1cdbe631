"""Activations in main memory: the gradient's bits, what is moved and what stays."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ubgen_training.sampler.activation_offload import offload_activations


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256), nn.LayerNorm(256))


def gradients(network, pixels, run):
    network.zero_grad()
    pixels.grad = None
    run(network, pixels).square().sum().backward()
    return [value.grad.clone() for value in (*network.parameters(), pixels)]


@pytest.mark.parametrize("recomputes", [False, True])
def test_the_gradient_is_the_same_to_the_bit(network, recomputes):
    pixels = torch.randn(300, 256, requires_grad=True)

    def run(network, pixels):
        return checkpoint(network, pixels, use_reentrant=False) if recomputes else network(pixels)

    wanted = gradients(network, pixels, run)
    with offload_activations(network.parameters(), from_cpu=True):
        found = gradients(network, pixels, run)
    assert all(map(torch.equal, found, wanted))


def test_activations_are_copied_and_weights_and_small_tensors_are_not(network, monkeypatch):
    copied, empty_like = [], torch.empty_like

    def noted(tensor, **kwargs):
        copied.append(tuple(tensor.shape))
        return empty_like(tensor, **kwargs)

    monkeypatch.setattr(torch, "empty_like", noted)
    with offload_activations(network.parameters(), from_cpu=True):
        network(torch.randn(300, 256, requires_grad=True))
    # inputs of both layers and of what comes between and after; no weight, and no mean or deviation of a row
    assert copied and {*copied} == {(300, 256), (300, 512)}
    copied.clear()
    with offload_activations(network.parameters()):
        network(torch.randn(300, 256, requires_grad=True))
    assert copied == []

"""The discriminator's shape and layers."""

import pytest
import torch
from torch import nn

from ubgen_training.ubgen.discriminator import DISCRIMINATOR_FORMS, Discriminator, gradient_penalty


def test_it_is_linear_relu_linear():
    layers = list(Discriminator(6, 5).layers)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear]
    assert Discriminator(6, 5)(torch.zeros(4, 6)).shape == (4,)


def test_it_reads_the_length_of_features():
    torch.manual_seed(0)
    discriminator, features = Discriminator(6, 5), torch.randn(3, 6)
    assert not torch.allclose(discriminator(features), discriminator(10 * features))


def test_forms_by_name():
    paper, released = (Discriminator(6, form=form).layers for form in ("paper", "released"))
    assert set(DISCRIMINATOR_FORMS) == {"paper", "released"}
    assert isinstance(paper[1], nn.ReLU) and paper[0].out_features == 256
    assert isinstance(released[1], nn.LeakyReLU) and released[1].negative_slope == 0.2
    assert released[0].out_features == 3


def test_single_settings_replace_those_of_the_form():
    layers = Discriminator(6, 7, "relu", "released").layers
    assert layers[0].out_features == 7 and isinstance(layers[1], nn.ReLU)


def test_the_penalty_is_half_the_squared_gradient_worked_out_by_hand():
    """D(x) = v . relu(W x + b) + c has the gradient W^T (v * [W x + b > 0]); the rest is autograd's."""
    torch.manual_seed(0)
    discriminator, features = Discriminator(6, 5).double(), torch.randn(4, 6, dtype=torch.float64)
    first, _, last = discriminator.layers
    gate = (features @ first.weight.T + first.bias > 0).double()
    by_hand = ((gate * last.weight) @ first.weight).square().sum(dim=1).mean() / 2
    penalty = gradient_penalty(discriminator, features)
    assert penalty.item() == pytest.approx(by_hand.item(), rel=1e-12)
    weights = (first.weight, last.weight)
    for own, other in zip(torch.autograd.grad(penalty, weights), torch.autograd.grad(by_hand, weights)):
        assert torch.allclose(own, other, rtol=1e-10, atol=1e-14)
    assert 0 < gate.mean() < 1  # or the kinks would not be tested


def test_the_penalty_reaches_the_weights_alone():
    discriminator, features = Discriminator(6, 5), torch.randn(3, 6, requires_grad=True)
    gradient_penalty(discriminator, features).backward()
    assert features.grad is None and discriminator.layers[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "arguments, named",
    [
        ((6, 0), "^hidden_dim is 0"),
        ((6, 3, "tanh"), "'tanh'"),
        ((6, 3, "relu", "mine"), "^form is 'mine'"),
    ],
)
def test_bad_settings_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        Discriminator(*arguments)

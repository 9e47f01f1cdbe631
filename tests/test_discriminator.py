"""The discriminator's shape and layers."""

import pytest
import torch
from torch import nn

from ubgen_training.discriminator import Discriminator


def test_it_is_linear_relu_linear():
    layers = list(Discriminator(6, 5).layers)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear]
    assert Discriminator(6, 5)(torch.zeros(4, 6)).shape == (4,)


def test_it_reads_the_length_of_features():
    torch.manual_seed(0)
    discriminator, features = Discriminator(6, 5), torch.randn(3, 6)
    assert not torch.allclose(discriminator(features), discriminator(10 * features))


@pytest.mark.parametrize("arguments, named", [((6, 0), "hidden_dim is 0"), ((6, 3, "tanh"), "'tanh'")])
def test_bad_settings_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        Discriminator(*arguments)

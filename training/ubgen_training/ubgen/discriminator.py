"""The discriminator of the entire-dataset alignment: tells text features of class names from image features."""

from dataclasses import dataclass

import torch
from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.2)}


@dataclass(frozen=True)
class DiscriminatorForm:
    """Width and activation of the hidden layer."""

    hidden_dim: int
    activation: str


# the width of "paper" is ours: the paper does not give one
DISCRIMINATOR_FORMS = {"paper": DiscriminatorForm(256, "relu"), "released": DiscriminatorForm(3, "leaky_relu")}


class Discriminator(nn.Module):
    """Linear-ReLU-Linear on unnormalised CLIP features (arXiv 2412.10831, section 3.2).

    Args:
        feature_dim: F, the width of the CLIP features.
        hidden_dim: width of the hidden layer; None takes the form's.
        activation: ``relu`` or ``leaky_relu``; None takes the form's.
        form: ``paper``, or ``released``: width 3 with LeakyReLU(0.2), as in the released code.

    Raises:
        ValueError: a width below 1, an unknown activation or an unknown form.
    """

    def __init__(
        self, feature_dim: int, hidden_dim: int | None = None, activation: str | None = None, form: str = "paper"
    ):
        super().__init__()
        if form not in DISCRIMINATOR_FORMS:
            raise ValueError(f"form is {form!r}; choose one of {', '.join(DISCRIMINATOR_FORMS)}.")
        hidden_dim = DISCRIMINATOR_FORMS[form].hidden_dim if hidden_dim is None else hidden_dim
        activation = DISCRIMINATOR_FORMS[form].activation if activation is None else activation
        if hidden_dim < 1:
            raise ValueError(f"hidden_dim is {hidden_dim}; choose 1 or more.")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; choose one of {', '.join(ACTIVATIONS)}.")
        self.layers = nn.Sequential(
            nn.Linear(feature_dim, hidden_dim), ACTIVATIONS[activation](), nn.Linear(hidden_dim, 1)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits ``(B,)``, high for text, of ``features (B, F)``; the paper's D is their sigmoid."""
        return self.layers(features).squeeze(-1)


def gradient_penalty(discriminator: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """R1 with γ = 1: half the mean squared gradient of the logits at real ``features (B, F)`` (arXiv 1801.04406, 4.1).

    Differentiable in the discriminator's weights; call it with gradient enabled.
    """
    features = features.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(features).sum(), features, create_graph=True)
    return gradient.square().sum(dim=-1).mean() / 2

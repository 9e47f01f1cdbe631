"""The discriminator of the entire-dataset alignment: tells text features of class names from image features."""

import torch
from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.2)}


class Discriminator(nn.Module):
    """Linear-ReLU-Linear on unnormalised CLIP features (arXiv 2412.10831, section 3.2).

    The paper does not give the hidden width; the released code uses 3 with ``leaky_relu``.

    Args:
        feature_dim: F, the width of the CLIP features.
        hidden_dim: width of the hidden layer.
        activation: ``relu`` or ``leaky_relu``.

    Raises:
        ValueError: a width below 1 or an unknown activation.
    """

    def __init__(self, feature_dim: int, hidden_dim: int = 256, activation: str = "relu"):
        super().__init__()
        if hidden_dim < 1:
            raise ValueError(f"discriminator_hidden_dim is {hidden_dim}; choose 1 or more.")
        if activation not in ACTIVATIONS:
            raise ValueError(f"discriminator_activation is {activation!r}; choose one of {', '.join(ACTIVATIONS)}.")
        self.layers = nn.Sequential(
            nn.Linear(feature_dim, hidden_dim), ACTIVATIONS[activation](), nn.Linear(hidden_dim, 1)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits ``(B,)``, high for text, of ``features (B, F)``; the paper's D is their sigmoid."""
        return self.layers(features).squeeze(-1)

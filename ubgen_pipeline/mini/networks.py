"""A small residual convolutional network, the trunk of the mini world's classifier and of its quality scorer."""

import torch
from torch import nn


class ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(features) + self.shortcut(features))


class ConvTower(nn.Module):
    """Images ``(B, 3, 64, 64)`` in [0, 1] to logits ``(B, num_outputs)``; differentiable in the image."""

    def __init__(self, num_outputs: int, widths: tuple[int, ...] = (24, 48, 96, 128)):
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 1, 1)]
        for in_channels, out_channels in zip((widths[0], *widths), widths):
            blocks.append(ResidualBlock(in_channels, out_channels, stride=2))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(2 * widths[-1], num_outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.blocks(images * 2 - 1)
        return self.head(torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1))

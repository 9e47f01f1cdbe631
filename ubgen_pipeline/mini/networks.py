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


WIDTHS = (24, 48, 96, 128)


class UNetSegmenter(nn.Module):
    """Logits ``{"out": (B, K, H, W)}`` of normalised images ``(B, 3, H, W)``, in the form of torchvision's."""

    def __init__(self, num_classes: int, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        self.down = nn.ModuleList(_block(before, after) for before, after in zip((12, *widths), widths))
        self.up = nn.ModuleList(
            _block(deep + shallow, shallow) for deep, shallow in zip(widths[:0:-1], widths[-2::-1])
        )
        self.head = nn.Conv2d(widths[0], 4 * num_classes, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features, kept = nn.functional.pixel_unshuffle(images, 2), []
        for number, block in enumerate(self.down):
            if number:
                features = nn.functional.max_pool2d(features, 2)
            features = block(features)
            kept.append(features)
        for block, shallow in zip(self.up, kept[-2::-1]):
            features = nn.functional.interpolate(features, scale_factor=2, mode="nearest")
            features = block(torch.cat([features, shallow], dim=1))
        return {"out": nn.functional.pixel_shuffle(self.head(features), 2)}


def _block(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)

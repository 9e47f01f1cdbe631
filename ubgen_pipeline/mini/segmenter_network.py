"""A small U-Net (Ronneberger et al. 2015) that segments the mini world's scenes; small enough to train on a CPU.

It works at half the resolution: 2 x 2 pixels come in as channels, and leave as such.

Shapes: B images of H x W pixels, both multiples of 16; K classes.
"""

import torch
from torch import nn

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

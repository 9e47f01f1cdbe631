"""Images with their colour channels in random orders, so that a loss of them cannot pull all colours to one hue.

Rewards that were learnt from few colours, or from many more images of one hue, have gradients that point to that hue
in all images alike, and a LoRA follows what all images share. What is pulled to blue through one order is pulled to
red through another, so that over many images such a loss has no favourite among hues that differ by the order of
their channels. Shapes: B images of H x W pixels.
"""

import torch


def random_channel_order(num_images: int, generator: torch.Generator) -> torch.Tensor:
    """``(B, 3)``, a permutation of the channels for each image; ``generator`` is on the CPU."""
    return torch.rand(num_images, 3, generator=generator).argsort(dim=1)


def ordered_channels(images: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """``images (B, 3, H, W)``, the channels of each in its ``order (B, 3)``; ``order.argsort(dim=1)`` undoes it."""
    return images.gather(1, order.to(images.device)[:, :, None, None].expand_as(images))

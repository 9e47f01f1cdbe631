"""Images with their colour channels in a random order, so that a loss of them cannot pull all colours to one hue.

Rewards that were learnt from few colours, or from many more images of one hue, have gradients that point to that hue
in all images alike, and a LoRA follows what all images share. Shapes: B images of H x W pixels.
"""

import torch


def shuffle_channels(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """``images (B, 3, H, W)``, the channels of each in an order of its own; ``generator`` is on the CPU.

    What is pulled to blue through one order is pulled to red through another, so that over many images a loss of the
    result has no favourite among hues that differ by the order of their channels.
    """
    order = torch.rand(len(images), images.shape[1], generator=generator).argsort(dim=1).to(images.device)
    return images.gather(1, order[:, :, None, None].expand_as(images))

"""An example of a reward without gradient: the size of the image as a JPEG file, for the policy gradient.

The compressibility and incompressibility tasks of DDPO (arXiv 2305.13301, section 5.1).
"""

import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

BYTES_PER_KILOBYTE = 1000


class JpegSizeReward:
    """Minus the kilobytes of the JPEG file; plus them where ``incompressible``.

    Args:
        incompressible: reward large files instead of small ones.
        quality: of the JPEG, 1 to 95.
    """

    differentiable = False

    def __init__(self, incompressible: bool = False, quality: int = 95):
        self.__name__ = "jpeg_incompressibility" if incompressible else "jpeg_size"
        self.sign = 1 if incompressible else -1
        self.quality = quality

    @torch.no_grad()
    def __call__(
        self, images: torch.Tensor, class_names: Sequence[str], labels: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Rewards ``(B,)`` of ``images (B, 3, H, W)``, clamped to [0, 1] here, as saving does."""
        pixels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        sizes = [self._num_bytes(Image.fromarray(image)) / BYTES_PER_KILOBYTE for image in pixels]
        return self.sign * torch.tensor(sizes, device=images.device)

    def _num_bytes(self, image: Image.Image) -> int:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=self.quality)
        return file.tell()

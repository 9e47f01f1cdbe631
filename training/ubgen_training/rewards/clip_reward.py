"""What the rewards have in common that are functions of a CLIP's image features and of the images' classes."""

from collections.abc import Sequence
from typing import Any

import torch

from ubgen_pipeline.models.clip_encoders import ClipEncoder


class ClipReward:
    """Calls :meth:`values` with the images' features; a subclass sets ``encoder`` and gives that method."""

    encoder: ClipEncoder

    def __call__(
        self,
        images: torch.Tensor,
        class_names: Sequence[str],
        labels: torch.Tensor,
        *,
        image_features: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Values ``(B,)`` of ``images (B, 3, H, W)`` nominally in [0, 1] with ``labels (B,)``.

        ``image_features (B, F)``, where given, are this encoder's features of the images, to save encoding twice.
        """
        features = self.encoder.encode_images(images) if image_features is None else image_features
        return self.values(features, labels.to(features.device))

    def values(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Values ``(B,)`` of image features ``(B, F)`` as the encoder gives them, with ``labels (B,)`` beside them."""
        raise NotImplementedError

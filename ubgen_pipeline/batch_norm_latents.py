"""Latents of an autoencoder that keeps their statistics as a batch norm does: those of FLUX.2 and of ERNIE-Image.

Shapes: B samples, C x h x w latents. A latent here is a square of two by two of the VAE's, so C is four times its
channels.
"""

from typing import Any

import torch


class BatchNormLatents:
    """Members of :class:`.Family` for such an autoencoder, mixed in before it.

    Attributes:
        batch_norm_eps: what the stock call adds to the variance; None: what the VAE's configuration says.
    """

    batch_norm_eps: float | None = None

    vae: Any
    _patchify_latents: Any
    _unpatchify_latents: Any

    def unscaled_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """The VAE's latents of the loop's ``(B, C, h, w)``."""
        mean, std = self._latent_statistics(latents)
        return self._unpatchify_latents(latents * std + mean)

    def scaled_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """The loop's latents ``(B, C, h, w)`` of the VAE's."""
        latents = self._patchify_latents(latents)
        mean, std = self._latent_statistics(latents)
        return (latents - mean) / std

    def _latent_statistics(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation ``(1, C, 1, 1)``."""
        norm = self.vae.bn
        eps = self.vae.config.batch_norm_eps if self.batch_norm_eps is None else self.batch_norm_eps
        mean, std = norm.running_mean, torch.sqrt(norm.running_var + eps)
        return mean.view(1, -1, 1, 1).to(latents), std.view(1, -1, 1, 1).to(latents)

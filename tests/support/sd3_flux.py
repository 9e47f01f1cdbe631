"""Stable Diffusion 3 and FLUX.1 in small, as diffusers' own pipelines and as ours."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.models.families import FAMILIES

from .tiny_models import flux, sd3

NAMES = ["circle", "star"]
PROMPTS = ["a circle", "a photo of a red star on a blue field"]


@dataclass(frozen=True)
class Case:
    """A family, how its tiny model is built, and the guidance scales that it knows."""

    family: str
    build: Callable[..., Any]
    options: dict[str, Any]
    scales: tuple[float | None, ...]

    def ours(self, stock: Any) -> Any:
        pipeline = FAMILIES[self.family].pipeline_class()(**stock.components)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def stock(self) -> Any:
        pipeline = self.build(**self.options)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


CASES = {
    "sd3": Case("sd3", sd3.build, {}, (1.0, 4.0)),
    "sd3_without_t5": Case("sd3", sd3.build, {"with_t5": False, "dynamic_shifting": True}, (1.0, 4.0)),
    "flux_dev": Case("flux", flux.build, {}, (1.0, 3.5)),
    "flux_schnell": Case("flux", flux.build, {"guidance_embeds": False}, (None,)),
}


def stock_images(stock: Any, prompts: list[str], noise: torch.Tensor, **settings: Any) -> torch.Tensor:
    """Of diffusers' own call, from noise ``(B, C, h, w)``."""
    if hasattr(stock, "_pack_latents"):
        noise = stock._pack_latents(noise, *noise.shape)
    return stock(list(prompts), latents=noise.clone(), output_type="pt", **settings).images


def seeded(pipeline: Any, height: int = 32, width: int = 32) -> torch.Tensor:
    """Noise of two samples."""
    return draw_latents([1, 2], pipeline.latent_shape(height, width))

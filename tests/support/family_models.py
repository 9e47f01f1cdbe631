"""The tiny model of every family of the registry: what tests of all families are parametrised over.

A new family's file in ``tiny_models`` has its registry's name, ``-`` as ``_``, and a function ``build()`` that gives
diffusers' own pipeline. It may also have

    KINDS: dict of names and arguments of build(), for kinds of models that differ; the first, ``""``, is without
        arguments
    STOCK: dict of arguments that the stock call needs to do what ours does
    IS_PACKED: the stock call takes latents packed into tokens
"""

import inspect
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ubgen_pipeline.initial_latents import draw_latents, step_generators
from ubgen_pipeline.models.families import FAMILIES

# Stable Diffusion's is the mini model, which has tests of its own
FAMILY_NAMES = tuple(name for name in FAMILIES if name != "sd")
# what each of them draws in a moment
QUICK = {"num_inference_steps": 2, "height": 32, "width": 32}
# of other lengths, so that what a batch is made of would show
PROMPTS = ["a circle", "a photo of a star in the evening"]
# equal arithmetic, but for what a kernel may choose per call; and for batches of other sizes and fillings
TOLERANCE, BATCH_TOLERANCE = 1e-5, 1e-4


def _fixture(name: str) -> Any:
    return import_module(f"support.tiny_models.{name.replace('-', '_')}")


def tiny_pipeline(name: str, **options: Any) -> Any:
    """diffusers' own pipeline of that family, with random weights."""
    pipeline = _fixture(name).build(**options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def own_pipeline(name: str, stock: Any) -> Any:
    """Our pipeline of that family on the networks of diffusers' own, with its numbers and switches."""
    kind = FAMILIES[name].pipeline_class()
    accepted = inspect.signature(kind.__init__).parameters
    own = {key: value for key, value in stock.config.items() if key in accepted}
    scheduler = type(stock.scheduler).from_config(stock.scheduler.config)
    pipeline = kind(**{**own, **stock.components, "scheduler": scheduler})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@dataclass(frozen=True)
class Case:
    """A kind of tiny model of a family, as diffusers' own pipeline and as ours, on the same networks."""

    family: str
    kind: str
    options: dict[str, Any]

    def build(self) -> Any:
        """diffusers' own pipeline, new."""
        return tiny_pipeline(self.family, **self.options)

    def ours(self, stock: Any) -> Any:
        pipeline = own_pipeline(self.family, stock)
        if length := getattr(_fixture(self.family), "STOCK", {}).get("max_sequence_length"):
            pipeline.max_sequence_length = length
        return pipeline

    @cached_property
    def stock(self) -> Any:
        """diffusers' own pipeline, that all tests share and none changes."""
        return self.build()

    @cached_property
    def pipeline(self) -> Any:
        """Ours on its networks."""
        return self.ours(self.stock)

    def noise(self, num_samples: int, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
        """Of the seeds 1, 2, …"""
        return draw_latents(range(1, num_samples + 1), self.pipeline.latent_shape(*size))

    def draw(self, pipeline: Any, prompts: list[str], size: tuple[int, int] = (32, 32), **settings: Any) -> Any:
        """Our images ``(B, 3, H, W)`` of the seeds 1, 2, …; no guidance for a model that takes none."""
        if pipeline.guidance == "none":
            settings.pop("guidance_scale", None)
        settings = {"num_inference_steps": 2, "height": size[0], "width": size[1], "output_type": "pt", **settings}
        seeds = list(range(1, len(prompts) + 1))
        return pipeline(["thing"] * len(prompts), prompts=prompts, seeds=seeds, **settings).images

    def draw_stock(
        self,
        stock: Any,
        prompts: list[str],
        size: tuple[int, int] = (32, 32),
        *,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        **settings: Any,
    ) -> torch.Tensor:
        """The stock call's images of the same noise; each alone, since several of these calls fill prompts up to the
        longest beside them, and read what they filled up with."""
        module, accepted = _fixture(self.family), inspect.signature(stock.__call__).parameters
        settings = {"num_inference_steps": 2, "output_type": "pt", **getattr(module, "STOCK", {}), **settings}
        if self.pipeline.guidance != "none":
            scale = self.pipeline.default_guidance_scale if guidance_scale is None else guidance_scale
            settings |= self.pipeline.stock_guidance(scale)
        if negative_prompt and "negative_prompt" in accepted:
            # no list: Z-Image writes its template into it
            settings["negative_prompt"] = negative_prompt
        elif negative_prompt:
            negative = self.pipeline.batch(self.pipeline.encode([negative_prompt]))
            settings["negative_prompt_embeds"] = negative["encoder_hidden_states"]
        images = []
        for row, prompt in enumerate(prompts):
            latents = self.noise(len(prompts), size)[row][None]
            if getattr(module, "IS_PACKED", False):
                latents = stock._pack_latents(latents, *latents.shape)
            drawn = stock(
                prompt=[prompt],
                latents=latents,
                generator=step_generators([row + 1]),
                height=size[0],
                width=size[1],
                **settings,
            )
            images.append(drawn.images)
        return torch.cat(images)


CASES = {
    f"{name} {kind}".strip(): Case(name, kind, options)
    for name in FAMILY_NAMES
    for kind, options in getattr(_fixture(name), "KINDS", {"": {}}).items()
}


class TinyModels:
    """Folders of tiny models, each saved once, by diffusers' own pipeline."""

    def __init__(self, parent: Path):
        self._parent = parent
        self.folder = cache(self._save)

    def _save(self, name: str) -> Path:
        folder = self._parent / name
        tiny_pipeline(name).save_pretrained(folder)
        return folder

"""The tiny model of every family of the registry: what tests of all families are parametrised over.

A new family's file in ``tiny_models`` has its registry's name, ``-`` as ``_``, and a function ``build()``; one whose
file makes several kinds names its kind here.
"""

import inspect
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ubgen_pipeline.models.families import FAMILIES

_KINDS = {"flux2-klein": ("flux2", "klein-base"), "flux2-dev": ("flux2", "dev")}
# Stable Diffusion's is the mini model, which has tests of its own
FAMILY_NAMES = tuple(name for name in FAMILIES if name != "sd")
# what each of them draws in a moment
QUICK = {"num_inference_steps": 2, "height": 32, "width": 32}


def tiny_pipeline(name: str) -> Any:
    """diffusers' own pipeline of that family, with random weights."""
    module, *kind = _KINDS.get(name, (name.replace("-", "_"),))
    return import_module(f"support.tiny_models.{module}").build(*kind)


def own_pipeline(name: str, stock: Any) -> Any:
    """Our pipeline of that family on the networks of diffusers' own, with its numbers and switches."""
    kind = FAMILIES[name].pipeline_class()
    accepted = inspect.signature(kind.__init__).parameters
    own = {key: value for key, value in stock.config.items() if key in accepted}
    pipeline = kind(**{**own, **stock.components})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class TinyModels:
    """Folders of tiny models, each saved once, by diffusers' own pipeline."""

    def __init__(self, parent: Path):
        self._parent = parent
        self.folder = cache(self._save)

    def _save(self, name: str) -> Path:
        folder = self._parent / name
        tiny_pipeline(name).save_pretrained(folder)
        return folder

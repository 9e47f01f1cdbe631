"""A tiny FLUX.2 dev."""

from typing import Any

from . import flux2
from .flux2 import STOCK as STOCK

KINDS = {"": {}, "unguided": {"guidance_embeds": False}}


def build(**settings: Any) -> Any:
    """See :func:`.flux2.build`."""
    return flux2.build("dev", **settings)

"""A tiny FLUX.2 klein."""

from typing import Any

from . import flux2
from .flux2 import STOCK as STOCK

KINDS = {"": {}, "distilled": {"kind": "klein"}}


def build(kind: str = "klein-base", **settings: Any) -> Any:
    """See :func:`.flux2.build`."""
    return flux2.build(kind, **settings)

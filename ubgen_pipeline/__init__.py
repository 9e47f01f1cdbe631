"""From class names to an annotated image dataset: the forward stream.

Names are imported when first used, so that ``ubgen --help`` and the class lists do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .generation.generate import generate_dataset
    from .models.loading import load_pipeline
    from .pipeline import UbGenPipeline
    from .pipeline_output import UbGenOutput

__all__ = ["UbGenOutput", "UbGenPipeline", "generate_dataset", "load_pipeline"]

_MODULE_OF = {
    "UbGenOutput": "pipeline_output",
    "UbGenPipeline": "pipeline",
    "generate_dataset": "generation.generate",
    "load_pipeline": "models.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

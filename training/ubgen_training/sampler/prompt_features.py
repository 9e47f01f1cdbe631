"""What the text encoders make of a training's prompts, kept in a folder, so that the encoders need not stay."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from ubgen_pipeline.family import Family
from ubgen_pipeline.inference.prompt_cache import PromptCache, PromptFolder, made_by
from ubgen_pipeline.models.sources import hub_commit


class PromptSettings(Protocol):
    """Of a training's settings those that say how its prompts are encoded."""

    model_name_or_path: str
    model_revision: str | None
    variant: str | None
    prompt_features: str | None
    main_process_first: Any


@contextmanager
def prompt_cache(
    config: PromptSettings, dtype: torch.dtype, loras: Sequence[Any] = (None,)
) -> Iterator[PromptCache | None]:
    """Encodes the training's prompts inside the ``with``, or reads them from the folder; None where none is given.

    Of several processes of a machine the first one encodes, and the others read what it has kept.

    Args:
        config: of the training.
        dtype: of the text encoders, which are on the CPU.
        loras: JSON values that tell the LoRAs in them; see :func:`ubgen_pipeline.inference.prompt_cache.made_by`.
    """
    if config.prompt_features is None:
        yield None
        return
    facts = made_by(
        config.model_name_or_path,
        config.variant,
        hub_commit(config.model_name_or_path, config.model_revision),
        dtype=str(dtype).removeprefix("torch."),
        device="cpu",
        loras=loras,
    )
    with config.main_process_first(desc="encoding the prompts"):
        yield PromptCache(folder=PromptFolder(config.prompt_features, facts))


def free_text_encoders(pipeline: Family) -> None:
    """Let go of the text encoders, whose features are at hand."""
    parts: Any = pipeline
    parts.register_modules(**dict.fromkeys(pipeline.text_networks))

"""What the text encoders make of a training's prompts, kept in a folder, so that the encoders need not stay."""

import os
import time
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from accelerate.utils import reduce

from ubgen_pipeline.commands.console import say
from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.family import Family
from ubgen_pipeline.inference.prompt_cache import PromptCache, PromptFolder, made_by
from ubgen_pipeline.models.sources import model_commit

# Processes tell each other this often how many prompts are left. One that hears nothing for longer than ddp_timeout
# gives up, and a large text encoder may take hours on a CPU for a thousand prompts.
_ROUND_SECONDS = 60.0


class PromptSettings(Protocol):
    """Of a training's settings those that say how its prompts are encoded, and by which processes."""

    model_name_or_path: str
    model_revision: str | None
    variant: str | None
    prompt_features: str | None
    world_size: Any
    process_index: Any
    local_process_index: Any
    device: Any
    should_log: Any


class SharedPromptCache(PromptCache):
    """A cache over all processes of a training, each of which encodes a part of the prompts and reads the others'.

    All processes must ask for the same prompts in the same order. Their folder may be common to all of them, or to
    those of a machine, or be each one's own: what is not there after the parts were encoded is encoded again.

    Args:
        folder: this process's.
        config: of the training.
    """

    def __init__(self, folder: PromptFolder, config: PromptSettings):
        super().__init__(folder=folder)
        self._config = config
        # its place and of how many processes: of all machines; of this one, where the launcher tells; alone
        self._shares = [(config.process_index, config.world_size), (0, 1)]
        if "LOCAL_WORLD_SIZE" in os.environ:
            self._shares.insert(1, (config.local_process_index, int(os.environ["LOCAL_WORLD_SIZE"])))

    def rows(self, pipeline: Family, prompts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:
        """See the base."""
        for first, step in self._shares:
            self._encode_part(pipeline, prompts[first::step], negative)
        return super().rows(pipeline, prompts, negative=negative)

    def _encode_part(self, pipeline: Family, part: Sequence[str], negative: bool) -> None:
        """Encode what is missing of this process's part, until every process is done with its own."""
        missing = [prompt for prompt in part if not self.is_at_hand(prompt, negative=negative)]
        while num_left := self._of_all(len(missing)):
            if self._config.should_log:
                say(f"{num_left} prompt{'s' * (num_left > 1)} left to encode")
            until = time.monotonic() + _ROUND_SECONDS
            while missing and time.monotonic() < until:
                super().rows(pipeline, [missing.pop()], negative=negative)

    def _of_all(self, count: int) -> int:
        """The sum over all processes."""
        total: Any = reduce(torch.tensor(count, device=self._config.device), reduction="sum")
        return int(total)


def prompt_cache(config: PromptSettings, dtype: torch.dtype, loras: Sequence[Any] = (None,)) -> PromptCache | None:
    """A cache that reads and keeps the training's prompts in its folder; None where none is given.

    Args:
        config: of the training.
        dtype: of the text encoders, which are on the CPU.
        loras: JSON values that tell the LoRAs in them; see :func:`ubgen_pipeline.inference.prompt_cache.made_by`.
    """
    if config.prompt_features is None:
        return None
    facts = made_by(
        config.model_name_or_path,
        config.variant,
        model_commit(config.model_name_or_path, config.model_revision),
        dtype=str(dtype).removeprefix("torch."),
        device="cpu",
        loras=loras,
    )
    return SharedPromptCache(PromptFolder(config.prompt_features, facts), config)


def free_text_encoders(pipeline: Family) -> None:
    """Let go of the text encoders, whose features are at hand."""
    parts: Any = pipeline
    parts.register_modules(**dict.fromkeys(pipeline.text_networks))

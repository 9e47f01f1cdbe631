"""Text features of the prompts drawn so far: each prompt goes through the text encoder once and alone."""

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..pipeline import UbGenPipeline

# of SD1.5's in 16 bits these are 240 MB
MAX_PROMPTS = 2000


class PromptCache:
    """Features by prompt, the longest unused being forgotten first; several threads may share it.

    A prompt is encoded alone, since a batch of other size or content rounds differently: an image would then depend on
    which prompts came before it.

    Args:
        num_chunks: tokenizer lengths of every prompt, where word weights are read; None where they are not.
        max_prompts: prompts that are remembered.
    """

    def __init__(self, num_chunks: int | None = None, max_prompts: int = MAX_PROMPTS):
        self._num_chunks, self._max_prompts = num_chunks, max_prompts
        self._features: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._lock = Lock()

    @torch.no_grad()
    def features(self, pipeline: "UbGenPipeline", prompts: Sequence[str]) -> torch.Tensor:
        """Text features ``(B, L, D)`` of B prompts, in the text encoder's dtype and on its device."""
        with self._lock:
            return torch.cat([self._of(pipeline, prompt) for prompt in prompts])

    def _of(self, pipeline: "UbGenPipeline", prompt: str) -> torch.Tensor:
        if prompt not in self._features:
            if self._num_chunks is None:
                self._features[prompt] = pipeline.encode_prompts([prompt])
            else:
                self._features[prompt] = pipeline.encode_weighted_prompts([prompt], num_chunks=self._num_chunks)
            if len(self._features) > self._max_prompts:
                self._features.popitem(last=False)
        self._features.move_to_end(prompt)
        return self._features[prompt]

"""Prompts in, 8-bit images out: the pipeline called batch by batch from several threads.

:class:`ImageDrawer` calls the pipeline, and :class:`DrawnImages` are its images on their way from the device.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..commands.stopwatch import stage
from .prepared_pipeline import for_another_thread, with_own_tokenizers
from .prompt_cache import PromptCache

if TYPE_CHECKING:
    from ..conditioning import Conditioning
    from ..pipeline import UbGenPipeline
    from ..pipeline_output import UbGenOutput


@dataclass(frozen=True)
class DrawnImages:
    """The images of one batch on their way from the device, with everything else that the pipeline gave.

    Attributes:
        output: of the pipeline; its images are not read any more.
        num_samples: B, without what filled the batch up.
    """

    output: "UbGenOutput"
    num_samples: int
    _pixels: torch.Tensor
    _finite: torch.Tensor
    _arrived: torch.cuda.Event | None

    def images(self) -> np.ndarray:
        """``(B, H, W, 3)`` uint8, black where the image is not finite; waits for the copy from the device."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._pixels.numpy()[: self.num_samples]

    def finite(self) -> np.ndarray:
        """``(B,)`` bool, which images have no NaN or infinity; waits as :meth:`images` does."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._finite.numpy()[: self.num_samples]


class ImageDrawer:
    """Draws batches, each thread with a scheduler and tokenizers of its own.

    Args:
        pipeline: prepared; the first thread that draws takes its scheduler, and none its tokenizers.
        num_chunks: tokenizer lengths of prompts with word weights; None where there are none.
        cache: of the prompts, for that number; None makes one.
    """

    def __init__(self, pipeline: "UbGenPipeline", *, num_chunks: int | None = None, cache: PromptCache | None = None):
        self._pipeline, self._num_chunks = pipeline, num_chunks
        self._cache = cache or PromptCache(num_chunks)
        self._own = threading.local()
        self._lock = threading.Lock()
        self._is_taken = False

    def to(self, device: torch.device | str) -> None:
        """Move the networks, while nothing is drawn."""
        self._pipeline.to(device)

    def __call__(
        self, class_names: Sequence[str], prompts: Sequence[str], *, num_samples: int | None = None, **arguments: Any
    ) -> DrawnImages:
        """Draw a batch and leave without waiting for the device.

        Args:
            class_names: B names.
            prompts: B texts.
            num_samples: of them that are kept, from the first on; all if not given.
            **arguments: of the pipeline.
        """
        if not hasattr(self._own, "pipeline"):
            with self._lock:
                own = for_another_thread if self._is_taken else with_own_tokenizers
                self._own.pipeline = own(self._pipeline)
                self._is_taken = True
                _time_decoding(self._own.pipeline)
        pipeline: UbGenPipeline = self._own.pipeline
        device = pipeline._execution_device
        with stage("encoding", device):
            prompt_embeds = self._conditioning(pipeline, prompts, arguments)
        with stage("drawing", device):
            output = pipeline(
                class_names,
                prompts=prompts,
                prompt_embeds=prompt_embeds,
                weighted_prompts=self._num_chunks is not None,
                num_prompt_chunks=self._num_chunks,
                output_type="pt",
                **arguments,
            )
            assert not isinstance(output, tuple)
            return _on_the_way(output, len(prompts) if num_samples is None else num_samples)

    def _conditioning(
        self, pipeline: "UbGenPipeline", prompts: Sequence[str], arguments: dict[str, Any]
    ) -> "Conditioning":
        """That of the prompts; that of the text that they are guided away from is put among the arguments."""
        if pipeline.guidance == "classifier-free" or (arguments.get("true_cfg_scale") or 1) > 1:
            negative = [arguments.get("negative_prompt") or ""] * len(prompts)
            arguments["negative_prompt_embeds"] = self._cache.conditioning(pipeline, negative, negative=True)
        return self._cache.conditioning(pipeline, prompts)


def _time_decoding(pipeline: Any) -> None:
    """Make the pipeline's decoding a stage of its own, within that of drawing."""
    if "decode" in vars(pipeline):
        # a copy of a pipeline that was met before
        return
    decode, device = pipeline.decode, pipeline._execution_device

    def timed(latents: torch.Tensor) -> torch.Tensor:
        with stage("decoding", device):
            return decode(latents)

    pipeline.decode = timed


def _on_the_way(output: "UbGenOutput", num_samples: int) -> DrawnImages:
    """Round to 8 bits on the device, and copy from there without waiting."""
    images = output.images
    output.images = None
    # in float32: in 16 bits not all of the values from 0 to 255 would be exact
    pixels = (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    # clamping to [0, 1] lets NaN through, and what a cast makes of it depends on the device
    finite = images.isfinite().flatten(1).all(dim=1)
    pixels.masked_fill_(~finite[:, None, None, None], 0)
    if not pixels.is_cuda:
        return DrawnImages(output, num_samples, pixels.cpu(), finite.cpu(), None)
    host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
    host_finite = torch.empty(finite.shape, dtype=torch.bool, pin_memory=True)
    # a new thread uses GPU 0, even where its process chose another one
    with torch.cuda.device(pixels.device):
        host.copy_(pixels, non_blocking=True)
        host_finite.copy_(finite, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
    return DrawnImages(output, num_samples, host, host_finite, arrived)

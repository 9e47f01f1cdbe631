"""A loaded pipeline made ready to draw many images: exact to rounding, and for drawing only.

What changes weights or their layout is done here once: the LoRA is fused in float32, projections are joined, channels
come last, and the model is compiled where that pays. In 16 bits a LoRA stays beside the weights, since a small update
would vanish in their rounding.
"""

import copy
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import FusedAttnProcessor2_0
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from ..models.lora_loading import fuse_loras
from .library_internals import undo_compile

if TYPE_CHECKING:
    from ..pipeline import UbGenPipeline


def prepare_pipeline(pipeline: "UbGenPipeline", lora_weights: str, *, keeps_projections: bool) -> None:
    """Make ``pipeline`` faster in place; it can no longer be trained.

    :func:`.packed_products.pack_products` does the rest where it is not compiled.

    Args:
        pipeline: freshly loaded.
        lora_weights: where its LoRA goes: see :class:`.Inference`.
        keeps_projections: leave the projections of attention apart, as the recorder of attention reads them, and as
            they must stay where their weights are quantized.
    """
    network = pipeline.denoiser_network
    if lora_weights == "fused":
        fuse_loras(pipeline)
    elif lora_weights == "beside":
        # peft keeps a LoRA in float32, so that each of its products would cast its input and its output
        network.to(network.dtype)
    is_unet = issubclass(type(network), UNet2DConditionModel)
    if lora_weights != "beside" and not keeps_projections and is_unet:
        network.fuse_qkv_projections()
        network.set_attn_processor(FusedAttnProcessor2_0())
    # on a CPU this order gains little and doubles the rounding error
    if pipeline.device.type != "cpu" and is_unet:
        network.to(memory_format=torch.channels_last)
    if pipeline.device.type != "cpu" and issubclass(type(pipeline.vae), AutoencoderKL):
        pipeline.vae.to(memory_format=torch.channels_last)


def compile_pipeline(pipeline: "UbGenPipeline", draw: Callable[[], object]) -> bool:
    """Compile the denoiser and the VAE's decoder; where that fails, warn and leave them as they were.

    Args:
        pipeline: prepared.
        draw: draws one batch of the final size, which is when the compiler runs.

    Returns:
        whether they are compiled now.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compile_cache_folder()))
    parts = (pipeline.denoiser_network, pipeline.vae.decoder)
    for part in parts:
        # compiled for one batch size: a shorter last batch is filled up
        part.compile(dynamic=False)
    try:
        draw()
    except torch.OutOfMemoryError:
        raise
    # torch's compiler, the C++ compiler and Triton raise errors of many kinds
    except Exception as error:
        for part in parts:
            undo_compile(part)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(
            f"torch.compile does not work here ({reason}); going on without it, which takes longer. Give compile off"
            " to silence this.",
            stacklevel=2,
        )
        return False
    return True


def compile_cache_folder() -> Path:
    """Where compiled code is kept between runs, unless TORCHINDUCTOR_CACHE_DIR says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "ubgen" / "compiled"


def for_another_thread(pipeline: "UbGenPipeline") -> "UbGenPipeline":
    """A second pipeline on the same weights, to draw in another thread: a scheduler keeps the state of its walk."""
    twin = pipeline.with_scheduler(type(pipeline.scheduler).from_config(pipeline.scheduler.config))
    twin.set_progress_bar_config(disable=True)
    return with_own_tokenizers(twin)


def with_own_tokenizers(pipeline: "UbGenPipeline") -> "UbGenPipeline":
    """The same pipeline with copies of its tokenizers.

    A tokenizer keeps how it was last told to pad: of two threads that call one at the same time, one may get ids of
    another length.
    """
    twin = copy.copy(pipeline)
    for name, part in pipeline.components.items():
        if isinstance(part, (PreTrainedTokenizerBase, ProcessorMixin)):
            setattr(twin, name, copy.deepcopy(part))
    return twin


def find_batch_size(draw: Callable[[int], object], largest: int) -> int:
    """The largest power of two up to ``largest`` that can be drawn with a tenth of the GPU's memory left.

    Args:
        draw: draws that many samples with one denoising step.
        largest: where to begin.

    Raises:
        ValueError: not even one sample fits.
    """
    size = largest
    while True:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            draw(size)
            total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
            if size == 1 or torch.cuda.max_memory_reserved() <= 0.9 * total:
                return size
        except torch.OutOfMemoryError:
            pass
        size = lowered_batch_size(size)


def lowered_batch_size(size: int) -> int:
    """Half the batch size that did not fit.

    Raises:
        ValueError: it was 1 already.
    """
    if size == 1:
        raise ValueError(
            "batch_size is 1 and the memory is not enough for it; lower height and width, give dtype float16 on a"
            " GPU, or take a device with more memory."
        )
    return size // 2


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or on a CPU torch's allocator, had no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)

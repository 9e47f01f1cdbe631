"""Where the networks lie while images are drawn: all on the device, or some waiting on the CPU for their turn."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..family import Family
    from ..pipeline import UbGenPipeline


def place_networks(pipeline: "UbGenPipeline", device: torch.device | str, offload: str) -> None:
    """Put the pipeline's networks where they lie while it draws; pixels do not depend on it.

    Args:
        pipeline: loaded and prepared, on the CPU.
        device: that draws.
        offload: one of :data:`.settings.OFFLOADS`. ``text``: the text encoders wait on the CPU, and
            :func:`text_encoders_on` takes them to the device. ``model``: each network is on the device while it
            computes. ``group``: so is each block of a network, the next one on its way meanwhile.

    Raises:
        ValueError: the device has too little memory for one of them.
    """
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "group":
        pipeline.enable_group_offload(
            torch.device(device), offload_type="block_level", num_blocks_per_group=1, use_stream=_has_streams(device)
        )
    else:
        waiting = pipeline.text_networks if offload == "text" else {}
        for name, part in pipeline.components.items():
            if isinstance(part, torch.nn.Module):
                _move(part, name, "cpu" if name in waiting else device, offload)


@contextmanager
def text_encoders_on(pipeline: "Family", device: torch.device | str | None) -> Iterator[None]:
    """The text encoders on ``device`` inside the ``with``, and on the CPU behind it; None leaves them alone."""
    if device is None:
        yield
        return
    encoders = pipeline.text_networks
    try:
        for name, encoder in encoders.items():
            _move(encoder, name, device, "text")
        yield
    finally:
        for encoder in encoders.values():
            encoder.to("cpu")
        if _has_streams(device):
            # so that the denoiser gets the memory
            torch.cuda.empty_cache()


def _move(network: torch.nn.Module, name: str, device: torch.device | str, offload: str) -> None:
    try:
        network.to(device)
    except torch.OutOfMemoryError as error:
        billions = sum(weight.numel() for weight in network.parameters()) / 1e9
        others = {"none": "text, model or group", "text": "model or group"}[offload]
        raise ValueError(
            f"offload is {offload!r}, and {device} has too little memory for the {name} ({billions:.1f} billion"
            f" weights) beside what lies there; give {others} (--offload), or fewer bits a weight (--quantization)."
        ) from error


def _has_streams(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"

"""Weights of 8 or 4 bits, made while a model loads: denoiser and text encoders take a half or a quarter of the memory.

The libraries that make them are the extra ``quantization``. Computation stays in bfloat16, and so do the VAE and
whatever is no linear layer. No torch until a configuration is asked for.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import PipelineQuantizationConfig

    from ..family import Family

QUANTIZATIONS = ("none", "int8", "nf4")
# what is computed in; torchao knows no other
QUANTIZATION_DTYPE = "bfloat16"
# the library that makes each
QUANTIZATION_LIBRARIES = {"int8": "torchao", "nf4": "bitsandbytes"}


def quantization_config(name: str, family: type["Family"]) -> "PipelineQuantizationConfig | None":
    """What diffusers' ``from_pretrained`` takes as ``quantization_config``; None where weights stay as they are.

    Args:
        name: one of :data:`QUANTIZATIONS`. ``int8``: 8 bits a weight, on any device (torchao). ``nf4``: 4 bits on the
            quantiles of a normal distribution (Dettmers et al. 2023), on a GPU (bitsandbytes).
        family: the pipeline's class.

    Raises:
        ValueError: an unknown name, a library that is not installed, or no GPU for ``nf4``.
    """
    if name not in QUANTIZATIONS:
        raise ValueError(f"quantization is {name!r}; choose one of {', '.join(QUANTIZATIONS)}.")
    if name == "none":
        return None
    if find_spec(QUANTIZATION_LIBRARIES[name]) is None:
        raise ValueError(
            f"quantization is {name!r}, and {QUANTIZATION_LIBRARIES[name]} is not installed; run"
            " `pip install 'ubgen[quantization]'`, or give none."
        )
    import torch
    from diffusers import PipelineQuantizationConfig

    if name == "nf4" and not torch.cuda.is_available():
        raise ValueError("quantization is 'nf4', which needs a GPU; give int8.")
    of_diffusers, of_transformers = {"int8": _int8, "nf4": _nf4}[name]()
    mapping = {family.denoiser_part: of_diffusers(), **{part: of_transformers() for part in family.text_encoder_parts}}
    return PipelineQuantizationConfig(quant_mapping=mapping)


def _int8() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Makers of the configuration for a part of diffusers, and for one of transformers."""
    import diffusers
    import transformers
    from torchao.quantization import Int8WeightOnlyConfig  # pyright: ignore[reportMissingImports]

    return (
        lambda: diffusers.TorchAoConfig(Int8WeightOnlyConfig()),
        lambda: transformers.TorchAoConfig(Int8WeightOnlyConfig()),
    )


def _nf4() -> tuple[Callable[[], Any], Callable[[], Any]]:
    import diffusers
    import torch
    import transformers

    settings = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": getattr(torch, QUANTIZATION_DTYPE),
    }
    return (
        lambda: diffusers.BitsAndBytesConfig(**settings),
        lambda: transformers.BitsAndBytesConfig(**settings),
    )

"""How a dataset is drawn on this machine, chosen once; a resume takes the same from the manifest."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ..commands.console import say
from ..models.quantization import QUANTIZATION_DTYPE
from .attention_kernels import OWN_ORDER, attention_calls, attention_order, fastest_attention
from .packed_products import pack_products
from .prepared_pipeline import compile_pipeline, find_batch_size
from .settings import Inference, InferenceSettings, compile_pays, lora_weights

if TYPE_CHECKING:
    from ..pipeline import UbGenPipeline

# Latent pixels of a batch on a CPU. Smaller batches have more calls to wait for; the activations of larger ones do not
# stay in a core's cache.
_CPU_LATENT_PIXELS = 2048
# where the search for a batch size begins
_MOST_ON_GPU = 32


def wanted_dtype(
    settings: InferenceSettings, begun: Mapping[str, Any] | None, device: str, gpu_dtype: str = "float16"
) -> str:
    """Precision of the weights, needed before they load: what the settings say, else the manifest, else the device.

    Args:
        settings: of this run.
        begun: settings in the dataset's manifest; None for a new one.
        device: ``cpu``, ``cuda:0``, ….
        gpu_dtype: what the model's family takes on a GPU.
    """
    if wanted_quantization(settings, begun) != "none":
        return QUANTIZATION_DTYPE
    recorded = (begun or {}).get("dtype")
    return settings.dtype or recorded or (gpu_dtype if device.startswith("cuda") else "float32")


def wanted_quantization(settings: InferenceSettings, begun: Mapping[str, Any] | None) -> str:
    """How many bits a weight takes, needed before they load: what the settings say, else the manifest.

    Args:
        settings: of this run.
        begun: settings in the dataset's manifest; None for a new one.
    """
    return settings.quantization or (begun or {}).get("quantization", "none")


def wanted_offload(settings: InferenceSettings, begun: Mapping[str, Any] | None, device: str) -> str:
    """What waits on the CPU, needed before the networks are placed: what the settings say, else the manifest.

    Args:
        settings: of this run.
        begun: settings in the dataset's manifest; None for a new one.
        device: ``cpu``, ``cuda:0``, ….

    Raises:
        ValueError: the device is the CPU itself.
    """
    offload = settings.offload or (begun or {}).get("offload", "none")
    if offload != "none" and torch.device(device).type == "cpu":
        raise ValueError(f"offload is {offload!r}, and the device is the CPU, where nothing can wait; give none.")
    return offload


def use_threads(
    settings: InferenceSettings, begun: Mapping[str, Any] | None, latent_pixels: int, at_once: bool
) -> int:
    """Give each batch its CPU threads.

    A batch gets one thread where several small batches can be drawn at the same time: they share no loop, so none
    waits for another. It gets all threads where latents are large, since several such batches would take the memory
    several times, and on a GPU.

    Args:
        settings: of this run.
        begun: settings in the dataset's manifest; None for a new one.
        latent_pixels: h x w of a sample's latents.
        at_once: whether several batches may be drawn at the same time.

    Returns:
        how many batches are drawn at the same time.
    """
    num_cores = torch.get_num_threads()
    recorded = (begun or {}).get("threads")
    threads = settings.threads or recorded or (1 if at_once and latent_pixels < _CPU_LATENT_PIXELS else num_cores)
    torch.set_num_threads(threads)
    return max(1, num_cores // threads) if at_once else 1


def choose_inference(
    settings: InferenceSettings,
    begun: Mapping[str, Any] | None,
    pipeline: "UbGenPipeline",
    trial: Callable[[int], object],
    *,
    has_lora: bool,
    latent_pixels: int,
    num_denoiser_samples: int,
    is_compilable: bool,
) -> Inference:
    """Settle what the settings and the manifest leave open, and compile where that was chosen; pack where it was not.

    Args:
        settings: of this run.
        begun: settings in the dataset's manifest; None for a new one.
        pipeline: prepared, its networks placed.
        trial: draws a batch of that size with one step.
        has_lora: whether a LoRA changes the model.
        latent_pixels: h x w of a sample's latents.
        num_denoiser_samples: see :func:`.compile_pays`.
        is_compilable: False where annotations are made or features kept, which compiled code has no place for.

    Raises:
        ValueError: a dataset was begun with compiled code, which does not work here.
    """
    attention = OWN_ORDER
    network = pipeline.denoiser_network
    device, dtype = pipeline._execution_device, str(network.dtype).removeprefix("torch.")
    if begun is not None:
        inference = Inference.resumed(
            settings, {**begun, "dtype": dtype, "lora_weights": lora_weights(has_lora, dtype)}
        )
        size, attention = inference.batch_size, inference.attention
    else:
        if settings.batch_size is not None:
            size = settings.batch_size
        elif device.type == "cuda":
            size = find_batch_size(trial, _MOST_ON_GPU)
            say(f"batch_size {size} fits the memory")
        else:
            size = max(1, _CPU_LATENT_PIXELS // latent_pixels)
        if device.type == "cuda":
            attention = fastest_attention(attention_calls(network, lambda: trial(size)), network.dtype, device)
            say(f"attention {attention} is the fastest")
        weights = lora_weights(has_lora, dtype)
        inference = Inference(
            size,
            torch.get_num_threads(),
            dtype,
            settings.compile,
            weights,
            offload=settings.offload or "none",
            quantization=settings.quantization or "none",
            not_finite="marked",
        )
    is_worth_it = inference.compile == "auto" and compile_pays(num_denoiser_samples, device.type)
    is_compiled = inference.compile == "on" or (is_worth_it and is_compilable)
    if is_compiled:
        say("compiling the model, which takes a minute or so")
        with attention_order(attention):
            is_compiled = compile_pipeline(pipeline, lambda: trial(size))
        if not is_compiled and (begun or {}).get("compile") == "on":
            raise ValueError(
                "compile was on when this dataset was begun, but fails here; finish it on such a machine."
            )
    elif begun is None:
        reason = "" if inference.compile == "off" else ": it would not pay here" * is_compilable
        say(f"the model is not compiled{reason}")
    if not is_compiled:
        # only here, since the compiler cannot see into packed products
        pack_products(network)
    compiling = "on" if is_compiled else "off"
    return replace(inference, dtype=dtype, compile=compiling, attention=attention)

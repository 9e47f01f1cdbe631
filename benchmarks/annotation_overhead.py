"""What masks, boxes and heat maps cost: seconds and memory of generation with and without annotations.

    python -m benchmarks.annotation_overhead --layouts mini mini-flow sd15

``mini`` and ``mini-flow`` are the embedded models, ``sd15`` a Stable Diffusion 1.5 of its real size with random
weights. Plain and annotated runs take turns, A B A B, and medians count, after one run of each that does not. On the
CPU it is the process's own time, which other processes disturb less than the clock's. The share of the machine's limit
is that of the counted operations of denoiser and decoder, maps left out, at the rate of the largest matrix product.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.machine_limits import copy_rate, machine_line, product_rate
from benchmarks.real_size_models import sd15_components
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.family import Family
from ubgen_pipeline.inference.operations import copy_on_meta, count_operations
from ubgen_pipeline.mask_settings import MaskSettings
from ubgen_pipeline.mini import EMBEDDED_MODELS
from ubgen_pipeline.models.loading import load_pipeline, set_scheduler
from ubgen_pipeline.pipeline import UbGenPipeline

LAYOUTS = (*EMBEDDED_MODELS, "sd15")
# a class name, of which masks are made and which the model draws
PROMPT = "circle"
ANNOTATIONS = ("mask", "confidence", "heatmap", "instance", "box", "polygon")


@dataclass(frozen=True)
class OverheadSettings:
    """Settings of the benchmark."""

    layouts: list[str] = field_help(f"of {', '.join(LAYOUTS)}")
    batch_size: int = field_help("images drawn together", 4)
    num_inference_steps: int = field_help("denoising steps", 20)
    image_size: int | None = field_help("height and width in pixels; the model's own if not given", None)
    decode: bool = field_help("decode the latents; without, the overhead is a larger share", True)
    repeats: int = field_help("runs of each kind", 3)
    measure_maps: bool = field_help("also measure what the recorder holds after one and after two steps", True)
    device: str = field_help("cpu or cuda; auto takes a GPU where there is one", "auto")

    def __post_init__(self) -> None:
        for layout in self.layouts:
            if layout not in LAYOUTS:
                raise ValueError(f"layouts holds {layout!r}; choose from {', '.join(LAYOUTS)}.")
        if self.device == "auto":
            object.__setattr__(self, "device", "cuda" if torch.cuda.is_available() else "cpu")


def build_sd15(device: str) -> UbGenPipeline:
    """Stable Diffusion 1.5 with random weights and DDIM, which calls the UNet once a step."""
    pipeline = UbGenPipeline(**sd15_components())
    set_scheduler(pipeline, "ddim")
    return pipeline.to(device, torch.float16 if device.startswith("cuda") else torch.float32)


def seconds(pipeline: UbGenPipeline, settings: OverheadSettings, annotations: Sequence[str]) -> float:
    """Seconds of drawing one batch. Each sample has a class of its own, so that no work is shared between samples."""
    clock = _clock(settings)
    names = ["circle", "square", "triangle", "star", "heart", "cross", "crescent", "ring", "arrow", "diamond"]
    start = clock()
    pipeline(
        [names[number % len(names)] for number in range(settings.batch_size)],
        num_inference_steps=settings.num_inference_steps,
        height=settings.image_size,
        width=settings.image_size,
        annotations=annotations,
        output_type="pil" if settings.decode else "latent",
    )
    if settings.device.startswith("cuda"):
        torch.cuda.synchronize()
    return clock() - start


def _clock(settings: OverheadSettings) -> Callable[[], float]:
    return time.perf_counter if settings.device.startswith("cuda") else time.process_time


def counted_operations(pipeline: Family, settings: OverheadSettings) -> float:
    """Operations of a batch with the model's default guidance: denoiser, and decoder where it is asked for."""
    counted, text = copy_on_meta(pipeline), conditioning(pipeline).floats(lambda value: value.to("meta"))
    shape = pipeline.latent_shape(settings.image_size, settings.image_size)
    latents = torch.zeros(1, *shape, device="meta", dtype=pipeline.latents_dtype)
    text, scale = counted.with_guidance(text, pipeline.default_guidance_scale)
    call = count_operations(lambda: counted.predict(latents, torch.zeros((), device="meta"), text))
    decoding = count_operations(lambda: counted.decode(latents)) if settings.decode else 0
    num_calls = settings.num_inference_steps * (2 if scale > 1 else 1)
    return settings.batch_size * (num_calls * call + decoding)


def recorded_bytes(pipeline: Family, mask_settings: MaskSettings, num_steps: int, shape: tuple[int, int, int]) -> int:
    """Bytes that the recorder holds for one image after ``num_steps`` steps.

    Args:
        pipeline: loaded.
        mask_settings: which attention is recorded; at all of its steps here.
        num_steps: that are run.
        shape: (C, h, w) of the latents.
    """
    attention, given = pipeline.mask_attention, conditioning(pipeline)
    texts = [attention.texts(PROMPT, [PROMPT], mask_settings)]
    recorder = attention.recorder(texts, shape[1:], mask_settings, num_steps)
    network: Any = pipeline.denoiser_network
    timesteps = pipeline.timesteps(num_steps, shape)
    with torch.no_grad(), recorder:
        for timestep in timesteps[:num_steps]:
            pipeline.predict(torch.randn(1, *shape).to(network.device, pipeline.latents_dtype), timestep, given)
        found = recorder.result()
    held = [*found.cross_maps.values(), *([] if found.self_map is None else [found.self_map])]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


@torch.no_grad()
def conditioning(pipeline: Family) -> Conditioning:
    """Of one sample."""
    return pipeline.batch(pipeline.encode([PROMPT]))


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(
        OverheadSettings,
        argv,
        prog="python -m benchmarks.annotation_overhead",
        description=__doc__,
    )
    print(machine_line(settings.device))
    for layout in settings.layouts:
        is_embedded = layout in EMBEDDED_MODELS
        pipeline = load_pipeline(layout, device=settings.device) if is_embedded else build_sd15(settings.device)
        pipeline.set_progress_bar_config(disable=True)
        limit = product_rate(settings.device, pipeline.latents_dtype, _clock(settings))
        print(f"limits: matrix product {limit / 1e12:.3f} TFLOP/s, copy {copy_rate(settings.device) / 1e9:.1f} GB/s")
        counted = counted_operations(pipeline, settings)
        times: dict[bool, list[float]] = {False: [], True: []}
        peaks = {}
        for _ in range(settings.repeats + 1):
            for annotated in (False, True):
                if settings.device.startswith("cuda"):
                    torch.cuda.reset_peak_memory_stats()
                times[annotated].append(seconds(pipeline, settings, ANNOTATIONS if annotated else ()))
                if settings.device.startswith("cuda"):
                    peaks[annotated] = torch.cuda.max_memory_allocated()
                else:
                    # the peak never falls, so only the first run of each kind tells them apart
                    peaks.setdefault(annotated, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        plain, annotated_time = (statistics.median(times[annotated][1:]) for annotated in (False, True))
        print(
            f"{layout}: {plain:.2f} s plain, {annotated_time:.2f} s annotated, overhead"
            f" {annotated_time / plain - 1:+.1%}; of the limit {counted / plain / limit:.0%} and"
            f" {counted / annotated_time / limit:.0%}; peak {peaks[False] / 1e9:.2f} and {peaks[True] / 1e9:.2f} GB"
        )
        print(f"{layout}: plain {_all(times[False])}, annotated {_all(times[True])}", flush=True)
        if not settings.measure_maps:
            continue
        shape = pipeline.latent_shape(settings.image_size, settings.image_size)
        mask_settings = replace(pipeline.default_mask_settings(), first_step=0.0, last_step=1.0)
        held = [recorded_bytes(pipeline, mask_settings, steps, shape) for steps in (1, 2)]
        print(f"{layout}: maps held per image after 1 and 2 steps: {held[0] / 1e3:.1f} and {held[1] / 1e3:.1f} kB")


def _all(times: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in times) + " s"


if __name__ == "__main__":
    sys.exit(main())

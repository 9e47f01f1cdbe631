"""What masks, boxes and heat maps cost: seconds and memory of generation with and without annotations.

    python -m benchmarks.annotation_overhead --layouts mini sd15

``mini`` is the embedded model, ``sd15`` a Stable Diffusion 1.5 of its real size with random weights. Plain and
annotated runs take turns, A B A B, and medians count, after one run of each that does not. On the CPU it is the
process's own time, which other processes disturb less than the clock's. The share of the machine's limit is that of
the counted operations of UNet and decoder, maps left out, at the rate of the largest matrix product.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine_limits import copy_rate, machine_line, product_rate
from benchmarks.real_size_models import sd15_components
from ubgen_pipeline.attention_maps import AttentionRecorder, ClassTexts
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.mask_settings import MaskSettings, default_mask_settings
from ubgen_pipeline.models.loading import load_pipeline, set_scheduler
from ubgen_pipeline.pipeline import UbGenPipeline

ANNOTATIONS = ("mask", "confidence", "heatmap", "instance", "box", "polygon")


@dataclass(frozen=True)
class OverheadSettings:
    """Settings of the benchmark."""

    layouts: list[str] = field_help("mini, sd15 or both")
    batch_size: int = field_help("images drawn together", 4)
    num_inference_steps: int = field_help("denoising steps", 20)
    image_size: int | None = field_help("height and width in pixels; the model's own if not given", None)
    decode: bool = field_help("decode the latents; without, the overhead is a larger share", True)
    repeats: int = field_help("runs of each kind", 3)
    measure_maps: bool = field_help("also measure what the recorder holds after one and after two steps", True)
    device: str = field_help("cpu or cuda; auto takes a GPU where there is one", "auto")

    def __post_init__(self) -> None:
        for layout in self.layouts:
            if layout not in ("mini", "sd15"):
                raise ValueError(f"layouts holds {layout!r}; choose from mini and sd15.")
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


def counted_operations(pipeline: UbGenPipeline, settings: OverheadSettings) -> float:
    """Operations of a batch: two UNet calls a step, for the default guidance, and the decoder where asked for."""
    noise = torch.zeros(1, *pipeline.latent_shape(settings.image_size, settings.image_size))
    noise = noise.to(pipeline.unet.device, pipeline.unet.dtype)
    text = noise.new_zeros(1, pipeline.tokenizer.model_max_length, pipeline.unet.config.cross_attention_dim)
    counts = []
    given = pipeline.given_conditioning(text)
    for call in (lambda: pipeline.predict(noise, torch.tensor(1), given), lambda: pipeline.decode(noise)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call()
        counts.append(counter.get_total_flops())
    return settings.batch_size * (2 * settings.num_inference_steps * counts[0] + settings.decode * counts[1])


def recorded_bytes(pipeline: UbGenPipeline, mask_settings: MaskSettings, num_steps: int, size: int) -> int:
    """Bytes that the recorder holds for one image after ``num_steps`` steps."""
    unet = pipeline.unet
    length, width = pipeline.tokenizer.model_max_length, unet.config.cross_attention_dim
    device, dtype = unet.device, unet.dtype
    texts = ClassTexts(
        torch.randn(1, length, width), torch.zeros(1, dtype=torch.int64), torch.full((1, 1, length), 1 / length)
    )
    recorder = AttentionRecorder(
        unet, texts, (size, size), cross_levels=mask_settings.cross_levels, self_level=mask_settings.self_level
    )
    with torch.no_grad(), recorder:
        for step in range(num_steps):
            latents = torch.randn(1, unet.config.in_channels, size, size, device=device, dtype=dtype)
            unet(latents, step, torch.randn(1, length, width, device=device, dtype=dtype))
    found = recorder.result()
    held = [*found.cross_maps.values(), *([] if found.self_map is None else [found.self_map])]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


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
        pipeline = load_pipeline("mini", device=settings.device) if layout == "mini" else build_sd15(settings.device)
        pipeline.set_progress_bar_config(disable=True)
        mask_settings = default_mask_settings(len(pipeline.unet.config.down_block_types))
        limit = product_rate(settings.device, pipeline.unet.dtype, _clock(settings))
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
        size = pipeline.latent_shape(settings.image_size, settings.image_size)[1]
        held = [recorded_bytes(pipeline, mask_settings, steps, size) for steps in (1, 2)]
        print(f"{layout}: maps held per image after 1 and 2 steps: {held[0] / 1e6:.2f} and {held[1] / 1e6:.2f} MB")


def _all(times: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in times) + " s"


if __name__ == "__main__":
    sys.exit(main())

"""What a dataset costs: device-hours, wall time on n devices, and storage.

    python -m benchmarks.cost_model
    python -m benchmarks.cost_model --rate 4.25 --workers 8 64 --presets guidance-cutoff deep-cache
    python -m benchmarks.cost_model --model sdxl --images 1300000
    python -m benchmarks.cost_model --all
    python -m benchmarks.cost_model --model mini --rate 7.1 --workers 1 --images 10000

Counted here: the operations of an image of a model of any family, by running the family's own code on shapes without
numbers; see ``benchmarks.operations``. Measured here: bytes
and encoding time of an image, of scenes of the mini world enlarged and with a photograph's grain. Given: the rate of a
matrix product on the device, by default that of an H100 in 16 bits; and the images/s of one device, where it is known.
"""

import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

from benchmarks.dataset_files import sample_images
from benchmarks.operations import Operations
from benchmarks.real_size_families import REAL_SIZE_MODELS
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.files.image_codecs import CODECS, image_encoder
from ubgen_pipeline.inference.presets import PRESETS

# settings that --all has no use for
_OF_ONE_MODEL = (
    *("model", "rate", "workers", "num_inference_steps", "guidance_scale", "samples_per_shard", "startup"),
    *("presets", "size"),
)


@dataclass(frozen=True)
class CostSettings:
    """Settings of the estimate."""

    all: bool = field_help(
        "count every published model at its own steps, guidance and size, and every preset on each", False
    )
    model: str = field_help(
        f"{', '.join(REAL_SIZE_MODELS)} (by its published configuration), mini, or a folder or Hub id of a model:"
        " whose operations are counted",
        "sd15",
    )
    images: list[int] | None = field_help("images of the dataset; 1.3 and 100 million if not given", None)
    tflops: float = field_help("given: rate of a matrix product on one device, in 1e12 operations/s", 798.0)
    rate: float | None = field_help("given: images/s of one device; only the limit is shown without it", None)
    workers: list[int] | None = field_help("devices at the same time; 8 and 64 if not given", None)
    num_inference_steps: int | None = field_help(
        "denoising steps, of PNDM for Stable Diffusion, which calls the UNet once more; the model's own if not given",
        None,
    )
    guidance_scale: float | None = field_help("guidance; 1 or less means none; the model's own if not given", None)
    samples_per_shard: int = field_help("rows of a shard, the unit that workers take", 256)
    startup: float = field_help("given: seconds until a worker draws, compiling included", 120.0)
    presets: list[str] | None = field_help("lossy presets to count too", None)
    size: int | None = field_help("image side in pixels; the model's own if not given", None)
    num_encoded: int = field_help("images that bytes and encoding are measured on", 16)

    def __post_init__(self) -> None:
        for name in ("tflops", "rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; give a number above 0.")
        for name in ("images", "workers"):
            if any(value < 1 for value in getattr(self, name) or ()):
                raise ValueError(f"{name} holds {min(getattr(self, name))}; give integers of at least 1.")
        if self.all:
            usual = {item.name: item.default for item in fields(self)}
            if given := [name for name in _OF_ONE_MODEL if getattr(self, name) != usual[name]]:
                raise ValueError(
                    f"{given[0]} is {getattr(self, given[0])!r} beside all, which counts each model with"
                    " its own settings; leave one of them out."
                )
        if unknown := [name for name in self.presets or () if name not in PRESETS]:
            raise ValueError(f"presets holds {unknown[0]!r}; choose of {', '.join(PRESETS)}.")


def device_hours(num_images: int, rate: float) -> float:
    """Hours that devices of ``rate`` images/s work in all."""
    return num_images / rate / 3600


def wall_hours(num_images: int, rate: float, num_workers: int, samples_per_shard: int, startup: float) -> float:
    """Hours until the last of ``num_workers`` is done: each takes whole shards, and the last round may not be full.

    Args:
        num_images: of the dataset.
        rate: images/s of one worker.
        num_workers: each with one device.
        samples_per_shard: rows of a shard.
        startup: seconds until a worker draws.
    """
    rounds = math.ceil(math.ceil(num_images / samples_per_shard) / num_workers)
    return (startup + rounds * min(samples_per_shard, num_images) / rate) / 3600


def codec_costs(codec: str, size: int, num_images: int) -> tuple[float, float]:
    """(bytes of an image, seconds of one core to encode it), measured here."""
    encode, seconds, lengths = image_encoder(codec), [], []
    for image in sample_images(num_images, size):
        start = time.thread_time()
        lengths.append(len(encode(image)))
        seconds.append(time.thread_time() - start)
    return statistics.mean(lengths), statistics.median(seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, count and print; 2 for a bad setting."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(CostSettings, argv, prog="python -m benchmarks.cost_model", description=__doc__)
    images, workers = settings.images or [1_300_000, 100_000_000], settings.workers or [8, 64]
    if settings.all:
        _print_all(settings.tflops, images, settings.num_encoded)
        return
    operations = Operations(settings.model, settings.size)
    side = operations.shape[-1] * operations.pipeline.pixels_per_latent
    exact = operations.of_an_image(settings.num_inference_steps, settings.guidance_scale)
    limit = settings.tflops * 1e12 / exact
    print(f"counted: {exact / 1e12:.4g} TFLOP for an image, {side} pixels a side")
    print(f"at {settings.tflops:g} TFLOP/s {limit:.3g} images/s\n")
    rates = {"limit, counted": limit}
    if settings.rate is not None:
        rates[f"rate given, {settings.rate / limit:.0%} of it"] = settings.rate
    hours = [f"hours on {number}" for number in workers]
    _print_head(["images", "at", "images/s", "device-hours", *hours])
    for num_images in images:
        for name, rate in rates.items():
            walls = (
                wall_hours(num_images, rate, number, settings.samples_per_shard, settings.startup)
                for number in workers
            )
            cells = [f"{num_images:,}", name, f"{rate:.3g}", f"{device_hours(num_images, rate):,.1f}"]
            print(_line([*cells, *(f"{wall:,.1f}" for wall in walls)]))
    print()
    _print_head(["codec", "bytes/image", *(f"{number:,}" for number in images), "cores a device"])
    for codec in CODECS:
        size, seconds = codec_costs(codec, side, settings.num_encoded)
        stored = (f"{size * number / 1e12:.3g} TB" for number in images)
        print(_line([codec, f"{size:,.0f}", *stored, f"{seconds * (settings.rate or limit):.2f}"]))
    if settings.presets:
        print()
        _print_head(["lossy preset", "TFLOP for an image", "of the exact"])
        for name in settings.presets:
            lossy = operations.of_an_image(settings.num_inference_steps, settings.guidance_scale, name)
            print(_line([name, f"{lossy / 1e12:.4g}", f"{lossy / exact:.0%}"]))


def _print_all(tflops: float, images: Sequence[int], num_encoded: int) -> None:
    """One table of all published models, one of the presets on each, and one of what is stored at their sizes."""
    numbers = [f"{number:,}" for number in images]
    columns = [
        "model",
        "pixels",
        "steps",
        "calls a step",
        "10⁹ weights",
        "TFLOP for an image",
        "images/s at the limit",
    ]
    _print_head([*columns, *(f"device-hours, {number}" for number in numbers)])
    lossy: dict[str, dict[str, str]] = {}
    for name, real in REAL_SIZE_MODELS.items():
        operations = Operations(name)
        pipeline, exact = operations.pipeline, operations.of_an_image()
        limit = tflops * 1e12 / exact
        is_doubled = pipeline.guidance == "classifier-free" and pipeline.default_guidance_scale > 1
        cells = [name, f"{real.size:,}", str(pipeline.default_num_inference_steps), "2" if is_doubled else "1"]
        cells += [f"{pipeline.denoiser_network.num_parameters() / 1e9:.2f}", _teraflops(exact), f"{limit:.3g}"]
        print(_line([*cells, *(f"{device_hours(number, limit):,.0f}" for number in images)]), flush=True)
        lossy[name] = _lossy_cells(operations, exact)
    print()
    _print_head(["model", *PRESETS])
    for name, cells_of in lossy.items():
        if cells_of:
            print(_line([name, *(cells_of.get(preset, "-") for preset in PRESETS)]))
    print()
    _print_head(["pixels", "codec", "bytes/image", *numbers])
    for side in sorted({real.size for real in REAL_SIZE_MODELS.values()}):
        for codec in CODECS:
            size, _ = codec_costs(codec, side, num_encoded)
            stored = (f"{size * number / 1e12:.3g} TB" for number in images)
            print(_line([f"{side:,}", codec, f"{size:,.0f}", *stored]), flush=True)


def _lossy_cells(operations: Operations, exact: float) -> dict[str, str]:
    """TFLOP of an image by preset, of those that the model takes and that leave something out."""
    cells = {}
    for preset in PRESETS:
        try:
            lossy = operations.of_an_image(preset=preset)
        except ValueError:
            # it has no effect on the model
            continue
        if lossy < exact:
            cells[preset] = f"{_teraflops(lossy)} ({lossy / exact:.0%})"
    return cells


def _teraflops(operations: float) -> str:
    """Four digits, or all before the point."""
    return f"{operations / 1e12:,.0f}" if operations >= 1e15 else f"{operations / 1e12:.4g}"


def _print_head(columns: Sequence[str]) -> None:
    print(_line(columns))
    print(f"|{'---|' * len(columns)}")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())

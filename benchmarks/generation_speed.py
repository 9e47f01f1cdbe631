"""Generation: a stock diffusers loop beside ``ubgen generate``, on the same latents.

    python -m benchmarks.generation_speed
    python -m benchmarks.generation_speed --model random-sd15
    python -m benchmarks.generation_speed --model random-sdxl

The stock arm is what users write: the pipeline as loaded, the LoRA beside the weights, prompts encoded for every
batch, and each image saved as PNG before the next batch begins. The other arm writes a shard of a dataset. Both are
loaded first, then take turns, A B A B, and the table gives medians. "loop" ends with the latents, "end to end" with
files. On a CPU torch takes as many threads as it likes for the stock arm. CPU seconds tell the arms apart on a machine
that does other work too; with OMP_NUM_THREADS=1 they count no waiting of threads for each other.

On a GPU turns, steps and images become fewer where the count of operations says that measuring would take longer than
``--minutes``: 512 images of Z-Image at its own 50 steps take two hours of an H100. Rates are of those steps.
"""

import dataclasses
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from diffusers import DiffusionPipeline, ZImagePipeline
from PIL import Image

from benchmarks.machine_limits import copy_rate, exact_float32, machine_line, product_rate, synchronize
from benchmarks.operations import Operations
from benchmarks.random_models import BUILT_MODELS, build_random_lora, build_random_model
from benchmarks.real_size_models import build_lora, build_sd15
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.family import Family
from ubgen_pipeline.flux2_parts import Flux2Parts
from ubgen_pipeline.generation.dataset_run import DatasetRun
from ubgen_pipeline.generation.settings import GenerateSettings
from ubgen_pipeline.generation.shard_writer import in_order_ahead
from ubgen_pipeline.inference.attention_kernels import attention_order
from ubgen_pipeline.inference.prepared_pipeline import for_another_thread
from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.mini import mini_model_path
from ubgen_pipeline.models.families import family_of
from ubgen_pipeline.models.loading import load_pipeline, resolve_model, set_scheduler
from ubgen_pipeline.pipeline import UbGenPipeline

# of the measured limit, what the arms reach at least, for an estimate of how long measuring takes; torch computes
# float32, for the references, so many times slower on a GPU
_LEAST_SHARES = {"stock": 0.2, "ubgen": 0.4}
_WIDER_COSTS = 25
# what is made smaller in turn, and down to what
_SMALLER = (
    ("repeats", 1), ("num_references", 2), ("num_inference_steps", 8), ("num_images", 8), ("num_inference_steps", 2),
    ("num_images", 2),
)  # fmt: skip

RANDOM_MODELS = tuple(f"random-{name}" for name in BUILT_MODELS)


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of the benchmark."""

    model: str = field_help(
        "mini, a folder, a Hub id, or one built here at its real size with random weights:"
        f" {', '.join(RANDOM_MODELS)}",
        "mini",
    )
    lora: str | None = field_help("a LoRA; not given: the mini model's, or a random one", None)
    num_images: int = field_help("images of each turn; a multiple of both batch sizes is fair", 32)
    repeats: int = field_help("turns of each arm that count, after one that does not", 3)
    num_inference_steps: int | None = field_help(
        "denoising steps; the model's own if not given, and 20 at most on a CPU", None
    )
    scheduler: str | None = field_help(
        "of both arms; if not given pndm for Stable Diffusion 1.x and 2.x, else the model's own", None
    )
    guidance_scale: float | None = field_help("guidance; the model's own if not given", None)
    size: int | None = field_help("side of the images in pixels; the model's own if not given", None)
    stock_batch_size: int = field_help("of the stock arm", 16)
    batch_size: int | None = field_help("of ubgen; its own choice if not given", None)
    compile: str = field_help("of ubgen: auto, on or off", "auto")
    dtype: str | None = field_help("of both arms; the family's own on a GPU and float32 elsewhere, if not given", None)
    codec: str = field_help("of ubgen", "png")
    num_references: int = field_help("images of the last turn drawn in twice the precision, to measure errors", 8)
    device: str | None = field_help("cpu or cuda; a GPU where there is one, if not given", None)
    minutes: float = field_help("on a GPU, what measuring may take about; loading comes on top", 6.0)


class StockArm:
    """The loop that users write, with diffusers' own pipeline of the model's family.

    ``ours`` is our pipeline on the same model.
    """

    def __init__(
        self, settings: BenchmarkSettings, model: str, lora: str, device: str, dtype: torch.dtype, ours: Family
    ):
        self.settings, self.device, self.dtype = settings, device, dtype
        assert settings.guidance_scale is not None
        self.arguments: dict[str, Any] = {
            "num_inference_steps": settings.num_inference_steps,
            **ours.stock_guidance(settings.guidance_scale),
            **({} if settings.size is None else {"height": settings.size, "width": settings.size}),
        }
        if isinstance(ours, Flux2Parts):
            # the stock call's own layers are of the published text encoder, which a random one is not as deep as
            self.arguments["text_encoder_out_layers"] = ours.text_layers()
        source = resolve_model(model)
        # parts that a model does without, such as Stable Diffusion 3's T5, are asked for unless they are given as None
        left_out = {name: None for name, part in DiffusionPipeline.load_config(source).items() if part == [None, None]}
        is_sd = family_of(type(ours).__name__) == "sd"
        unchecked = {"safety_checker": None, "requires_safety_checker": False} if is_sd else {}
        self.pipeline: Any = DiffusionPipeline.from_pretrained(source, dtype=dtype, **{**left_out, **unchecked})
        self.pipeline.load_lora_weights(lora)
        if settings.scheduler is not None:
            set_scheduler(self.pipeline, settings.scheduler)
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.to(device)

    def images(self, samples: Sequence[Any], folder: Path, shape: tuple[int, int, int]) -> None:
        folder.mkdir()
        for batch in _batches(samples, self.settings.stock_batch_size):
            for sample, image in zip(batch, self._call(batch, "pil", shape)):
                image.save(folder / f"{sample.index:06d}.png")

    def latents(self, samples: Sequence[Any], shape: tuple[int, int, int]) -> torch.Tensor:
        """As diffusers leaves them: some families' pipelines undo their scaling, or their packing, before they end."""
        batches = _batches(samples, self.settings.stock_batch_size)
        return torch.cat([self._call(batch, "latent", shape) for batch in batches])

    def _call(self, batch: Sequence[Any], output_type: str, shape: tuple[int, int, int]) -> Any:
        # Z-Image's loop takes float32 alone
        dtype = torch.float32 if isinstance(self.pipeline, ZImagePipeline) else self.dtype
        return self.pipeline(
            prompt=[sample.prompt.prompt for sample in batch],
            latents=draw_latents([sample.seed for sample in batch], shape).to(self.device, dtype),
            output_type=output_type,
            **self.arguments,
        ).images


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure and print; 2 for a bad setting."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(
        BenchmarkSettings,
        argv,
        prog="python -m benchmarks.generation_speed",
        description=__doc__,
    )
    with tempfile.TemporaryDirectory() as scratch:
        compare(settings, Path(scratch))


def compare(settings: BenchmarkSettings, scratch: Path) -> None:
    """Measure both arms and print the table."""
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, lora = _models(settings, scratch, device)
    settings, operations = _complete(settings, model, device)
    steps, scale = settings.num_inference_steps, settings.guidance_scale
    assert steps is not None and scale is not None
    family = type(operations.pipeline)
    dtype_name = settings.dtype or (family.default_gpu_dtype if device.startswith("cuda") else "float32")
    dtype, num_cores = getattr(torch, dtype_name), torch.get_num_threads()
    print(machine_line(device))
    peak, copying = product_rate(device, dtype), copy_rate(device)
    print(f"limits: matrix product {peak / 1e12:.3f} TFLOP/s in {dtype_name}, copy {copying / 1e9:.1f} GB/s")
    own_scale = None if family.guidance == "none" else scale
    if device.startswith("cuda"):
        given, settings = settings, within_minutes(settings, operations.of_an_image(steps, own_scale) / steps / peak)
        steps = settings.num_inference_steps
        assert steps is not None
        if settings != given:
            print(
                f"measured for about {settings.minutes:g} minutes: {settings.repeats} turns of {settings.num_images}"
                f" images of {steps} steps"
            )

    generating = GenerateSettings(
        class_names=[f"class {number}" for number in range(10)] if settings.model != "mini" else _mini_classes(),
        samples_per_class=math.ceil(settings.num_images * (settings.repeats + 1) / 10),
        samples_per_shard=settings.num_images,
        output_dir=str(scratch / "ubgen"),
        model=model,
        lora=lora,
        num_inference_steps=steps,
        guidance_scale=scale,
        scheduler=settings.scheduler,
        height=settings.size,
        width=settings.size,
        batch_size=settings.batch_size,
        compile=settings.compile,
        dtype=dtype_name,
        codec=settings.codec,
        device=device,
    )
    run = DatasetRun(generating, generating.samples())
    turns = [
        [run.samples.sample(index) for index in range(shard.start, shard.stop)]
        for shard in run.shards.shards[: settings.repeats + 1]
    ]
    start = time.perf_counter()
    run.prepare()
    preparing = time.perf_counter() - start
    threads = torch.get_num_threads()
    torch.set_num_threads(num_cores)
    stock = StockArm(settings, model, lora, device, dtype, run.pipeline)
    shape = operations.shape
    seconds: dict[str, list[float]] = {"stock": [], "ubgen": [], "stock loop": [], "ubgen loop": []}
    processor: dict[str, list[float]] = {arm: [] for arm in seconds}

    def time_arm(arm: str, num_threads: int, call: Callable[[], object]) -> None:
        torch.set_num_threads(num_threads)
        started = time.process_time()
        seconds[arm].append(_timed(call, device))
        processor[arm].append(time.process_time() - started)

    latents: dict[str, torch.Tensor] = {}
    for turn, samples in enumerate(turns):
        time_arm("stock", num_cores, lambda: stock.images(samples, scratch / f"stock-{turn}", shape))  # noqa: B023
        time_arm("ubgen", threads, lambda: run.write([turn]))  # noqa: B023
        time_arm("stock loop", num_cores, lambda: latents.update(stock=stock.latents(samples, shape)))  # noqa: B023
        time_arm("ubgen loop", threads, lambda: latents.update(ubgen=loop(run, samples)))  # noqa: B023
    torch.set_num_threads(num_cores)
    rates = {arm: len(turns[-1]) / statistics.median(times[1:]) for arm, times in seconds.items()}
    flops = operations.of_an_image(steps, own_scale)
    print(f"counted: {flops / 1e12:.4f} TFLOP for an image, {peak / flops:.3f} images/s at the limit")
    print(f"ubgen: batch size {run.batch_size}, {run.num_threads} batches at once, ready after {preparing:.1f} s")
    print(f"\n{'':<12}{'stock':>12}{'ubgen':>12}{'ratio':>8}{'share of limit':>16}")
    for name, arm in (("loop", " loop"), ("end to end", "")):
        one, other = rates[f"stock{arm}"], rates[f"ubgen{arm}"]
        share = f"{other * flops / peak:.0%}"
        print(f"{name:<12}{one:>8.3f} im/s{other:>8.3f} im/s{other / one:>7.2f}x{share:>14}")
    cpu = {arm: statistics.median(times[1:]) / len(turns[-1]) for arm, times in processor.items()}
    print(
        f"CPU seconds of an image, end to end: stock {cpu['stock']:.3f}, ubgen {cpu['ubgen']:.3f},"
        f" ratio {cpu['stock'] / cpu['ubgen']:.2f}"
    )
    noises = [_peak_signal_to_noise(samples, scratch, turn) for turn, samples in enumerate(turns)]
    pairs = np.concatenate(noises)
    print(
        f"\nimages: {np.mean(pairs >= 40):.1%} of {len(pairs)} pairs at 40 dB or more, lowest {pairs.min():.1f} dB,"
        f" {np.mean(np.isinf(pairs)):.1%} equal"
    )
    count = settings.num_references
    if latents["stock"].shape != latents["ubgen"].shape:
        print("latents: not compared, since diffusers' own end in another layout")
        return
    # room on a GPU for a pipeline of twice the precision
    stock.pipeline = None
    reference = _reference(settings, model, lora, device, dtype, turns[-1][:count])
    errors = {arm: relative_errors(latents[arm][:count], reference) for arm in ("stock", "ubgen")}
    for arm, error in errors.items():
        print(
            f"{arm}: latents' relative error against {reference.dtype}, of {len(error)} images: root mean square"
            f" {np.sqrt(np.mean(error**2)):.2e}, median {np.median(error):.2e}"
        )
    ratio = np.exp(np.mean(np.log(errors["ubgen"] / errors["stock"])))
    spread = np.exp(np.std(np.log(errors["ubgen"] / errors["stock"]), ddof=1) / np.sqrt(count)) if count > 1 else 1.0
    print(f"error of ubgen over that of stock: {ratio:.2f}, geometric mean; standard error: a factor of {spread:.2f}")


def within_minutes(settings: BenchmarkSettings, seconds_of_step: float) -> BenchmarkSettings:
    """The settings with fewer turns, references, steps and images, as far as measuring would take too long.

    Args:
        settings: whole; where the fewest of all take longer than ``minutes``, these are taken.
        seconds_of_step: of one step of an image, at the machine's limit.
    """

    def seconds() -> float:
        # loop and end to end, of each arm
        at_work = 2 * sum(1 / share for share in _LEAST_SHARES.values())
        drawn = settings.num_images * (settings.repeats + 1) * at_work + settings.num_references * _WIDER_COSTS
        return drawn * (settings.num_inference_steps or 0) * seconds_of_step

    for name, fewest in _SMALLER:
        while seconds() > 60 * settings.minutes and (value := getattr(settings, name)) > fewest:
            smaller = value - 1 if name == "repeats" else max(fewest, value // 2)
            settings = dataclasses.replace(settings, **{name: smaller})
    return dataclasses.replace(settings, stock_batch_size=min(settings.stock_batch_size, settings.num_images))


def relative_errors(latents: torch.Tensor, reference: torch.Tensor) -> np.ndarray:
    """Relative errors ``(N,)`` of latents ``(N, C, H, W)`` against a reference of the same shape."""
    error, size = (latents.to(reference) - reference).flatten(1).norm(dim=1), reference.flatten(1).norm(dim=1)
    return (error / size).double().cpu().numpy()


def loop(run: DatasetRun, samples: Sequence[Any]) -> torch.Tensor:
    """Latents of the samples, drawn as ``run`` draws them."""
    free: Queue[UbGenPipeline] = Queue()
    for _ in range(run.num_threads):
        free.put(for_another_thread(run.pipeline))

    def draw(batch: Sequence[Any]) -> torch.Tensor:
        pipeline = free.get()
        output = pipeline(
            [sample.prompt.name for sample in batch],
            prompts=[sample.prompt.prompt for sample in batch],
            seeds=[sample.seed for sample in batch],
            num_inference_steps=run.settings.num_inference_steps,
            guidance_scale=run.settings.guidance_scale,
            height=run.settings.height,
            width=run.settings.width,
            output_type="latent",
        )
        free.put(pipeline)
        assert not isinstance(output, tuple)
        return output.images

    num_threads = run.num_threads if run.pipeline.device.type == "cpu" else 1
    batches = _batches(samples, run.batch_size)
    with attention_order(run.attention):
        return torch.cat(list(in_order_ahead(draw, batches, num_threads=num_threads, num_ahead=num_threads + 1)))


def _models(settings: BenchmarkSettings, scratch: Path, device: str) -> tuple[str, str]:
    if settings.model == "mini":
        return "mini", settings.lora or str(Path(mini_model_path()).parent / "lora")
    if settings.model not in RANDOM_MODELS:
        if settings.lora is not None:
            return settings.model, settings.lora
        build_random_lora(settings.model, scratch / "lora")
        return settings.model, str(scratch / "lora")
    name = settings.model.removeprefix("random-")
    if name == "sd15":
        build_sd15(scratch / name)
        build_lora(scratch / "lora")
    else:
        build_random_model(name, scratch / name, device=device)
        build_random_lora(scratch / name, scratch / "lora")
    return str(scratch / name), str(scratch / "lora")


def _complete(settings: BenchmarkSettings, model: str, device: str) -> tuple[BenchmarkSettings, Operations]:
    """The settings with the model's own where they name none, and what counts its operations."""
    operations = Operations(model, settings.size)
    pipeline = operations.pipeline
    steps = settings.num_inference_steps
    if steps is None:
        own = pipeline.default_num_inference_steps
        # fewer on a CPU, to end within five minutes
        steps = own if device.startswith("cuda") else min(own, 20)
    scheduler = settings.scheduler
    if scheduler is None and family_of(type(pipeline).__name__) == "sd":
        scheduler = "pndm"
    scale = pipeline.default_guidance_scale if settings.guidance_scale is None else settings.guidance_scale
    complete = {"num_inference_steps": steps, "guidance_scale": scale, "scheduler": scheduler}
    return dataclasses.replace(settings, **complete), operations


def _mini_classes() -> list[str]:
    from ubgen_pipeline.mini.scenes import CLASS_NAMES

    return list(CLASS_NAMES)


def _reference(
    settings: BenchmarkSettings, model: str, lora: str, device: str, dtype: torch.dtype, samples: Sequence[Any]
) -> torch.Tensor:
    """Latents of those samples in twice the arms' precision, with the LoRA beside the weights."""
    wider = torch.float64 if dtype == torch.float32 else torch.float32
    pipeline = load_pipeline(model, lora=lora, scheduler=settings.scheduler, torch_dtype=wider, device=device)
    pipeline.set_progress_bar_config(disable=True)
    with exact_float32():
        output = pipeline(
            [sample.prompt.name for sample in samples],
            prompts=[sample.prompt.prompt for sample in samples],
            seeds=[sample.seed for sample in samples],
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            height=settings.size,
            width=settings.size,
            output_type="latent",
        )
    assert not isinstance(output, tuple)
    return output.images


def _peak_signal_to_noise(samples: Sequence[Any], scratch: Path, turn: int) -> np.ndarray:
    """PSNR of each pair of images in decibels; infinite for equal ones."""
    files = str(scratch / "ubgen" / "data" / f"train-{turn:05d}-of-*.parquet")
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(scratch / "cache"))
    decibels = []
    for sample, row in zip(samples, rows, strict=True):
        ours = np.asarray(row["image"], np.float64)  # pyright: ignore[reportArgumentType, reportCallIssue]
        stock = np.asarray(Image.open(scratch / f"stock-{turn}" / f"{sample.index:06d}.png"), np.float64)
        error = np.mean((ours - stock) ** 2)
        decibels.append(math.inf if error == 0 else 10 * math.log10(255**2 / error))
    return np.array(decibels)


def _timed(call: Any, device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def _batches(samples: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


if __name__ == "__main__":
    sys.exit(main())

"""Generation: a stock diffusers loop beside ``ubgen generate``, on the same latents.

    python -m benchmarks.generation_speed
    python -m benchmarks.generation_speed --model random-sd15

The stock arm is what users write: the pipeline as loaded, the LoRA beside the weights, prompts encoded for every
batch, and each image saved as PNG before the next batch begins. The other arm writes a shard of a dataset. Both are
loaded first, then take turns, A B A B, and the table gives medians. "loop" ends with the latents, "end to end" with
files. On a CPU torch takes as many threads as it likes for the stock arm. CPU seconds tell the arms apart on a machine
that does other work too; with OMP_NUM_THREADS=1 they count no waiting of threads for each other.
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
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine_limits import copy_rate, exact_float32, machine_line, product_rate, synchronize
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.generation.dataset_run import DatasetRun
from ubgen_pipeline.generation.settings import GenerateSettings
from ubgen_pipeline.generation.shard_writer import in_order_ahead
from ubgen_pipeline.inference.attention_kernels import attention_order
from ubgen_pipeline.inference.prepared_pipeline import with_own_scheduler
from ubgen_pipeline.initial_latents import draw_latents
from ubgen_pipeline.mini import mini_model_path
from ubgen_pipeline.models.loading import load_pipeline, resolve_model, set_scheduler
from ubgen_pipeline.pipeline import UbGenPipeline


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of the benchmark."""

    model: str = field_help("mini, random-sd15 (built here, at its real size), a folder or a Hub id", "mini")
    lora: str | None = field_help("a LoRA; not given: the mini model's, or a random one of rank 128", None)
    num_images: int = field_help("images of each turn; a multiple of both batch sizes is fair", 32)
    repeats: int = field_help("turns of each arm that count, after one that does not", 3)
    num_inference_steps: int | None = field_help("denoising steps; 50 on a GPU and 20 on a CPU, if not given", None)
    scheduler: str = field_help("of both arms", "pndm")
    guidance_scale: float = field_help("classifier-free guidance", 2.0)
    stock_batch_size: int = field_help("of the stock arm", 16)
    batch_size: int | None = field_help("of ubgen; its own choice if not given", None)
    compile: str = field_help("of ubgen: auto, on or off", "auto")
    dtype: str | None = field_help("of both arms; float16 on a GPU and float32 elsewhere, if not given", None)
    codec: str = field_help("of ubgen", "png")
    num_references: int = field_help("images of the last turn drawn in twice the precision, to measure errors", 8)
    device: str | None = field_help("cpu or cuda; a GPU where there is one, if not given", None)


class StockArm:
    """The loop that users write."""

    def __init__(self, settings: BenchmarkSettings, model: str, lora: str, device: str, dtype: torch.dtype):
        self.settings, self.device, self.dtype = settings, device, dtype
        self.pipeline = StableDiffusionPipeline.from_pretrained(
            resolve_model(model), dtype=dtype, safety_checker=None, requires_safety_checker=False
        )
        self.pipeline.load_lora_weights(lora)
        set_scheduler(self.pipeline, settings.scheduler)  # pyright: ignore[reportArgumentType]
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.to(device)

    def images(self, samples: Sequence[Any], folder: Path) -> None:
        folder.mkdir()
        for batch in _batches(samples, self.settings.stock_batch_size):
            for sample, image in zip(batch, self._call(batch, "pil")):
                image.save(folder / f"{sample.index:06d}.png")

    def latents(self, samples: Sequence[Any]) -> torch.Tensor:
        batches = _batches(samples, self.settings.stock_batch_size)
        return torch.cat([self._call(batch, "latent") for batch in batches])

    def _call(self, batch: Sequence[Any], output_type: str) -> Any:
        unet = self.pipeline.unet.config
        shape = (unet.in_channels, unet.sample_size, unet.sample_size)
        return self.pipeline(
            [sample.prompt.prompt for sample in batch],
            latents=draw_latents([sample.seed for sample in batch], shape).to(self.device, self.dtype),
            num_inference_steps=self.settings.num_inference_steps,
            guidance_scale=self.settings.guidance_scale,
            output_type=output_type,
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
    # fewer on a CPU, to end within five minutes
    steps = settings.num_inference_steps or (50 if device.startswith("cuda") else 20)
    settings = dataclasses.replace(settings, num_inference_steps=steps)
    dtype_name = settings.dtype or ("float16" if device == "cuda" else "float32")
    dtype, num_cores = getattr(torch, dtype_name), torch.get_num_threads()
    model, lora = _models(settings, scratch)
    print(machine_line(device))
    peak, copying = product_rate(device, dtype), copy_rate(device)
    print(f"limits: matrix product {peak / 1e12:.3f} TFLOP/s in {dtype_name}, copy {copying / 1e9:.1f} GB/s")

    generating = GenerateSettings(
        class_names=[f"class {number}" for number in range(10)] if settings.model != "mini" else _mini_classes(),
        samples_per_class=math.ceil(settings.num_images * (settings.repeats + 1) / 10),
        samples_per_shard=settings.num_images,
        output_dir=str(scratch / "ubgen"),
        model=model,
        lora=lora,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        scheduler=settings.scheduler,
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
    stock = StockArm(settings, model, lora, device, dtype)
    seconds: dict[str, list[float]] = {"stock": [], "ubgen": [], "stock loop": [], "ubgen loop": []}
    processor: dict[str, list[float]] = {arm: [] for arm in seconds}

    def time_arm(arm: str, num_threads: int, call: Callable[[], object]) -> None:
        torch.set_num_threads(num_threads)
        started = time.process_time()
        seconds[arm].append(_timed(call, device))
        processor[arm].append(time.process_time() - started)

    latents: dict[str, torch.Tensor] = {}
    for turn, samples in enumerate(turns):
        time_arm("stock", num_cores, lambda: stock.images(samples, scratch / f"stock-{turn}"))  # noqa: B023
        time_arm("ubgen", threads, lambda: run.write([turn]))  # noqa: B023
        time_arm("stock loop", num_cores, lambda: latents.update(stock=stock.latents(samples)))  # noqa: B023
        time_arm("ubgen loop", threads, lambda: latents.update(ubgen=loop(run, samples)))  # noqa: B023
    torch.set_num_threads(num_cores)
    rates = {arm: len(turns[-1]) / statistics.median(times[1:]) for arm, times in seconds.items()}
    flops = _flops_of_an_image(run, settings)
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


def relative_errors(latents: torch.Tensor, reference: torch.Tensor) -> np.ndarray:
    """Relative errors ``(N,)`` of latents ``(N, C, H, W)`` against a reference of the same shape."""
    error, size = (latents.to(reference) - reference).flatten(1).norm(dim=1), reference.flatten(1).norm(dim=1)
    return (error / size).double().cpu().numpy()


def loop(run: DatasetRun, samples: Sequence[Any]) -> torch.Tensor:
    """Latents of the samples, drawn as ``run`` draws them."""
    free: Queue[UbGenPipeline] = Queue()
    for _ in range(run.num_threads):
        free.put(with_own_scheduler(run.pipeline))

    def draw(batch: Sequence[Any]) -> torch.Tensor:
        pipeline = free.get()
        output = pipeline(
            [sample.prompt.name for sample in batch],
            prompts=[sample.prompt.prompt for sample in batch],
            seeds=[sample.seed for sample in batch],
            num_inference_steps=run.settings.num_inference_steps,
            guidance_scale=run.settings.guidance_scale,
            output_type="latent",
        )
        free.put(pipeline)
        assert not isinstance(output, tuple)
        return output.images

    num_threads = run.num_threads if run.pipeline.device.type == "cpu" else 1
    batches = _batches(samples, run.batch_size)
    with attention_order(run.attention):
        return torch.cat(list(in_order_ahead(draw, batches, num_threads=num_threads, num_ahead=num_threads + 1)))


def _models(settings: BenchmarkSettings, scratch: Path) -> tuple[str, str]:
    if settings.model == "mini":
        return "mini", settings.lora or str(Path(mini_model_path()).parent / "lora")
    if settings.model != "random-sd15":
        if settings.lora is None:
            raise ValueError("lora is missing; give one that fits the model.")
        return settings.model, settings.lora
    from benchmarks.real_size_models import build_lora, build_sd15

    build_sd15(scratch / "sd15")
    build_lora(scratch / "lora")
    return str(scratch / "sd15"), str(scratch / "lora")


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
            output_type="latent",
        )
    assert not isinstance(output, tuple)
    return output.images


def _flops_of_an_image(run: DatasetRun, settings: BenchmarkSettings) -> float:
    """Counted operations of the UNet, LoRA left out, and of the VAE's decoder; text is encoded once a class."""
    pipeline = load_pipeline(run.settings.model, scheduler=settings.scheduler)
    pipeline.scheduler.set_timesteps(settings.num_inference_steps)
    channels, height, width = pipeline.latent_shape()
    noise = torch.zeros(1, channels, height, width)
    text = torch.zeros(1, pipeline.tokenizer.model_max_length, pipeline.unet.config.cross_attention_dim)
    counts = []
    for call in (lambda: pipeline.unet(noise, torch.tensor(1), text), lambda: pipeline.decode(noise)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call()
        counts.append(counter.get_total_flops())
    num_calls = len(pipeline.scheduler.timesteps) * (2 if settings.guidance_scale > 1 else 1)
    return num_calls * counts[0] + counts[1]


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

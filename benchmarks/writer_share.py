"""What encoding and writing cost ``ubgen generate``: the same shards drawn with them and without.

    python -m benchmarks.writer_share
    python -m benchmarks.writer_share --model random-sd15

The arms take turns on the same samples, A B A B: one writes a shard as the command does, with encoding, commit and
waits for the disk; the other draws the same batches in the same threads and drops them, not encoded. The share is the
median over the shards of 1 - (seconds without) / (seconds with); the goal is at most 1%.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine_limits import copy_rate, machine_line, product_rate, synchronize
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.files.image_codecs import CODECS
from ubgen_pipeline.generation.dataset_run import DatasetRun
from ubgen_pipeline.generation.settings import GenerateSettings
from ubgen_pipeline.generation.shard_writer import in_order_ahead
from ubgen_pipeline.inference.attention_kernels import attention_order
from ubgen_pipeline.mini.scenes import CLASS_NAMES


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of the benchmark."""

    model: str = field_help("mini, random-sd15 (built here, at its real size), a folder or a Hub id", "mini")
    num_images: int = field_help("images of a shard", 64)
    repeats: int = field_help("shards of each codec that count, after one that does not", 3)
    num_inference_steps: int = field_help("denoising steps", 50)
    batch_size: int | None = field_help("ubgen's own choice if not given", None)
    codecs: list[str] | None = field_help(f"of {', '.join(CODECS)}; all if not given", None)
    device: str | None = field_help("cpu or cuda; a GPU where there is one, if not given", None)
    clock: str = field_help("wall, or process: the process's own time, which leaves out waits for the disk", "wall")

    def __post_init__(self) -> None:
        for name in ("num_images", "repeats", "num_inference_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more.")
        if self.clock not in ("wall", "process"):
            raise ValueError(f"clock is {self.clock!r}; choose wall or process.")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure and print; 2 for a bad setting."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(BenchmarkSettings, argv, prog="python -m benchmarks.writer_share", description=__doc__)
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        model = settings.model
        if model == "random-sd15":
            from benchmarks.real_size_models import build_sd15

            model = str(Path(scratch) / "sd15")
            build_sd15(model)
        print(machine_line(device))
        limits = product_rate(device, torch.float16 if device.startswith("cuda") else torch.float32), copy_rate(device)
        print(f"limits: matrix product {limits[0] / 1e12:.3f} TFLOP/s, copy {limits[1] / 1e9:.1f} GB/s")
        print(f"{'codec':<15}{'drawn':>14}{'and written':>14}{'writer':>10}{'lowest':>10}{'highest':>10}")
        for codec in settings.codecs or CODECS:
            print(codec_line(settings, codec, model, device, Path(scratch)), flush=True)


def codec_line(settings: BenchmarkSettings, codec: str, model: str, device: str, scratch: Path) -> str:
    """One line of the table: images/s, and the writer's share of the time."""
    generating = GenerateSettings(
        class_names=list(CLASS_NAMES),
        samples_per_class=-(-settings.num_images * (settings.repeats + 1) // len(CLASS_NAMES)),
        samples_per_shard=settings.num_images,
        output_dir=str(scratch / codec),
        model=model,
        num_inference_steps=settings.num_inference_steps,
        batch_size=settings.batch_size,
        compile="off",
        codec=codec,
        device=device,
    )
    run = DatasetRun(generating, generating.samples())
    run.prepare()
    pairs = []
    for number in range(settings.repeats + 1):
        written = timed(lambda: run.write([number]), settings, device)  # noqa: B023
        drawn = timed(lambda: draw(run, number), settings, device)  # noqa: B023
        pairs.append((drawn, written))
    shares = [1 - drawn / written for drawn, written in pairs[1:]]
    rates = [settings.num_images / statistics.median(column) for column in zip(*pairs[1:])]
    numbers = "".join(f"{rate:>9.2f} im/s" for rate in rates)
    return f"{codec:<15}{numbers}" + "".join(
        f"{share:>10.1%}" for share in (statistics.median(shares), min(shares), max(shares))
    )


def draw(run: DatasetRun, number: int) -> None:
    """Draw a shard's batches as ``run`` does, and drop them."""
    shard, rows_of, size = run.shards.shards[number], run.rows, run.batch_size
    encode, rows_of.encode = rows_of.encode, lambda image: b""
    batches = [range(start, min(start + size, shard.stop)) for start in range(shard.start, shard.stop, size)]
    try:
        with attention_order(run.attention):
            rows: Any = in_order_ahead(
                lambda batch: rows_of.rows(batch, size),
                batches,
                num_threads=run.num_threads,
                num_ahead=run.num_threads + 2,
            )
            for _ in rows:
                pass
    finally:
        rows_of.encode = encode


def timed(call: Callable[[], object], settings: BenchmarkSettings, device: str) -> float:
    """Seconds on the chosen clock, the device's work included."""
    clock = time.process_time if settings.clock == "process" else time.perf_counter
    synchronize(device)
    start = clock()
    call()
    synchronize(device)
    return clock() - start


if __name__ == "__main__":
    sys.exit(main())

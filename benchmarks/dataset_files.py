"""Files of a dataset: each codec's speed, size and loss, and how fast a finished dataset is read.

    python benchmarks/dataset_files.py --size 64
    python benchmarks/dataset_files.py --size 512

Writing encodes images on one thread and commits shards of them, synced, as ``ubgen generate`` does. Reading decodes
every image of them: `map-style` by index through ``datasets``' Arrow cache, made before, and `streaming` from the
parquet files. Images are scenes of the mini world, enlarged and with a photograph's grain.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Features, Value, load_dataset
from datasets import Image as ImageFeature
from machine_limits import machine_line
from PIL import Image

from ubgen_pipeline.dataset_shards import DatasetShards
from ubgen_pipeline.image_codecs import CODECS, image_encoder
from ubgen_pipeline.mini.scenes import scenes
from ubgen_pipeline.settings_parser import field_help, parse_settings, run_command

GRAIN = 2.0


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of the benchmark."""

    size: int = field_help("image side in pixels", 512)
    num_images: int = field_help("images of a shard", 64)
    repeats: int = field_help("shards written and read with each codec", 3)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure and print; 2 for a bad setting."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(
        BenchmarkSettings, argv, prog="dataset_files.py", description=(__doc__ or "").split("\n")[0]
    )
    images = sample_images(settings.num_images, settings.size)
    print(machine_line("cpu"))
    header = ("codec", "encode", "encode + write", "bytes/image", "map-style", "streaming", "RMS error")
    print("".join(f"{name:>16}" for name in header))
    for codec in CODECS:
        print(codec_line(codec, images, settings.repeats))


def codec_line(codec: str, images: np.ndarray, repeats: int) -> str:
    """One line of the table: rates in images/s, the error in 8-bit levels."""
    encode, folder = image_encoder(codec), Path(tempfile.mkdtemp())
    features = Features({"image": ImageFeature(), "index": Value("int64")})
    shards = DatasetShards(folder / "d", {}, len(images) * repeats, len(images))
    shards.open()
    encoding, writing = [], []
    for shard in shards.shards:
        start = time.perf_counter()
        files = [encode(image) for image in images]
        encoding.append(time.perf_counter() - start)
        rows = [{"image": {"bytes": data, "path": None}, "index": shard.start + i} for i, data in enumerate(files)]
        shards.write(shard, rows, features)
        writing.append(time.perf_counter() - start)
    size = sum(shards.file(shard).stat().st_size for shard in shards.shards) / (len(images) * repeats)
    arguments = {"path": str(folder / "d"), "split": "train", "cache_dir": str(folder / "cache")}
    dataset = load_dataset(**arguments)
    error = np.asarray(dataset[0]["image"], float) - images[0]  # pyright: ignore[reportArgumentType]
    reading = [
        _rate(lambda: [np.asarray(row["image"]) for row in dataset], len(images) * repeats),  # pyright: ignore
        _rate(
            lambda: [np.asarray(row["image"]) for row in load_dataset(**arguments, streaming=True)],
            len(images) * repeats,
        ),
    ]
    shutil.rmtree(folder)
    rates = [len(images) / statistics.median(seconds) for seconds in (encoding, writing)]
    numbers = [f"{rates[0]:.0f}", f"{rates[1]:.0f}", f"{size:.0f}", *(f"{rate:.0f}" for rate in reading)]
    return "".join(f"{text:>16}" for text in (codec, *numbers, f"{np.sqrt(np.mean(error**2)):.2f}"))


def sample_images(num_images: int, size: int) -> np.ndarray:
    """``(N, size, size, 3)`` uint8."""
    generator, images = np.random.default_rng(0), []
    for scene in scenes(num_images, bias=0.0, seed=0):
        enlarged = Image.fromarray(np.asarray(scene.image)).resize((size, size), Image.Resampling.BICUBIC)
        noisy = np.asarray(enlarged, float) + generator.normal(0, GRAIN, (size, size, 3))
        images.append(noisy.round().clip(0, 255).astype(np.uint8))
    return np.stack(images[:num_images])


def _rate(read: object, count: int) -> float:
    start = time.perf_counter()
    read()  # pyright: ignore[reportCallIssue]
    return count / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())

"""Files of a dataset: each codec's speed, size and loss, and how fast a finished dataset is read.

    python -m benchmarks.dataset_files --size 64
    python -m benchmarks.dataset_files --size 512

Writing encodes images on one thread and commits shards of them, synced, as ``ubgen generate`` does. Reading decodes
every image of them: `map-style` by index through ``datasets``' Arrow cache, made before, and `streaming` from the
parquet files. Codecs take turns, and the table gives medians. What the codec alone takes, in memory, is the limit of
each: beside the rates stands their share of it. Images are scenes of the mini world, enlarged and with a photograph's
grain.
"""

import io
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
from PIL import Image

from benchmarks.machine_limits import copy_rate, machine_line
from ubgen_pipeline.commands.settings_parser import field_help, parse_settings, run_command
from ubgen_pipeline.dataset.shards import DatasetShards
from ubgen_pipeline.files.image_codecs import CODECS, image_encoder
from ubgen_pipeline.mini.scenes import scenes

GRAIN = 2.0


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of the benchmark."""

    size: int = field_help("image side in pixels", 512)
    num_images: int = field_help("images of a shard", 64)
    repeats: int = field_help("shards written with each codec, and times that all are read", 3)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure and print; 2 for a bad setting."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    settings = parse_settings(BenchmarkSettings, argv, prog="python -m benchmarks.dataset_files", description=__doc__)
    images = sample_images(settings.num_images, settings.size)
    print(machine_line("cpu"))
    print(f"limit: memory copy {copy_rate('cpu') / 1e9:.1f} GB/s; an image is {images[0].nbytes} bytes")
    with tempfile.TemporaryDirectory() as scratch:
        files = [CodecFiles(codec, images, settings.repeats, Path(scratch) / codec) for codec in CODECS]
        for number in range(settings.repeats):
            for each in files:
                each.write(number)
        for each in files:
            each.open()
        for _ in range(settings.repeats):
            for each in files:
                each.read()
        header = ("codec", "encode", "and write", "bytes/image", "decode", "map-style", "streaming", "RMS error")
        print("".join(f"{name:>15}" for name in header))
        for each in files:
            print(each.line())


class CodecFiles:
    """Shards of one codec, written and read in turns.

    Args:
        codec: one of ``CODECS``.
        images: ``(N, size, size, 3)`` uint8, the content of every shard.
        num_shards: to be written.
        folder: for the dataset and the Arrow cache.
    """

    def __init__(self, codec: str, images: np.ndarray, num_shards: int, folder: Path):
        self.codec, self.images, self.folder = codec, images, folder
        self.encode = image_encoder(codec)
        self.files: list[bytes] = []
        self.shards = DatasetShards(folder / "d", {}, len(images) * num_shards, len(images))
        self.shards.open()
        self.seconds: dict[str, list[float]] = {
            name: [] for name in ("encode", "and write", "decode", "map-style", "streaming")
        }

    def write(self, number: int) -> None:
        """Encode and commit one shard."""
        features = Features({"image": ImageFeature(), "index": Value("int64")})
        shard, start = self.shards.shards[number], time.perf_counter()
        self.files = [self.encode(image) for image in self.images]
        self.seconds["encode"].append(time.perf_counter() - start)
        rows = [
            {"image": {"bytes": data, "path": None}, "index": shard.start + i} for i, data in enumerate(self.files)
        ]
        self.shards.write(shard, rows, features)
        self.seconds["and write"].append(time.perf_counter() - start)

    def open(self) -> None:
        """Make the Arrow cache."""
        self._arguments = {
            "path": str(self.folder / "d"),
            "split": "train",
            "cache_dir": str(self.folder / "cache"),
        }
        self._dataset = load_dataset(**self._arguments)

    def read(self) -> None:
        """Read all images: from memory, by index, and as a stream."""
        count = len(self.shards.shards)
        sources = {
            "decode": lambda: [np.asarray(Image.open(io.BytesIO(data))) for data in self.files],
            "map-style": lambda: [np.asarray(row["image"]) for row in self._dataset],  # pyright: ignore
            "streaming": lambda: [np.asarray(row["image"]) for row in load_dataset(**self._arguments, streaming=True)],
        }
        for name, read in sources.items():
            start = time.perf_counter()
            read()
            self.seconds[name].append((time.perf_counter() - start) / (1 if name == "decode" else count))

    def line(self) -> str:
        """One line of the table: rates in images/s with their share of the codec's own, the error in 8-bit levels."""
        rates = {name: len(self.images) / statistics.median(times) for name, times in self.seconds.items()}
        size = sum(self.shards.file(shard).stat().st_size for shard in self.shards.shards)
        decoded = np.asarray(self._dataset[0]["image"], float)  # pyright: ignore[reportArgumentType]
        error = np.sqrt(np.mean((decoded - self.images[0]) ** 2))

        def beside(name: str, limit: str) -> str:
            return f"{rates[name]:.0f} ({rates[name] / rates[limit]:.0%})"

        numbers = [
            f"{rates['encode']:.0f}",
            beside("and write", "encode"),
            f"{size / len(self.images) / len(self.shards.shards):.0f}",
            f"{rates['decode']:.0f}",
            beside("map-style", "decode"),
            beside("streaming", "decode"),
            f"{error:.2f}",
        ]
        return "".join(f"{text:>15}" for text in (self.codec, *numbers))


def sample_images(num_images: int, size: int) -> np.ndarray:
    """``(N, size, size, 3)`` uint8."""
    generator, images = np.random.default_rng(0), []
    for scene in scenes(num_images, bias=0.0, seed=0):
        enlarged = Image.fromarray(np.asarray(scene.image)).resize((size, size), Image.Resampling.BICUBIC)
        noisy = np.asarray(enlarged, float) + generator.normal(0, GRAIN, (size, size, 3))
        images.append(noisy.round().clip(0, 255).astype(np.uint8))
    return np.stack(images[:num_images])


if __name__ == "__main__":
    sys.exit(main())

"""How far apart hashes of altered and of different scenes are, and how long grouping takes.

python -m benchmarks.near_duplicates --num-scenes 2000 --num-hashes 1000000
"""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from ubgen_pipeline.commands.settings_parser import field_help, parse_settings
from ubgen_pipeline.mini.scenes import scenes
from ubgen_pipeline.scoring.duplicates import MAX_HASH_DISTANCE, duplicate_groups, perceptual_hash


@dataclass(frozen=True)
class NearDuplicatesSettings:
    """Settings of this measurement."""

    num_scenes: int = field_help("rendered scenes, each altered in every way", 2000)
    bias: float = field_help("how often a class has its own background and texture", 0.95)
    num_hashes: int = field_help("hashes at random that are grouped, against the clock", 1_000_000)


def _jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=50)
    return Image.open(stream).convert("RGB")


def _noise(image: Image.Image) -> Image.Image:
    values = np.asarray(image) + np.random.default_rng(0).normal(0, 8, (image.height, image.width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG at quality 50": _jpeg,
    "twice the size": lambda image: image.resize((2 * image.width, 2 * image.height)),
    "20% brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "noise of 8 levels": _noise,
    "moved by one pixel": lambda image: image.transform(image.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0)),
}


def main() -> None:
    settings = parse_settings(NearDuplicatesSettings, prog="python -m benchmarks.near_duplicates")
    images = [Image.fromarray(scene.image) for scene in scenes(settings.num_scenes, bias=settings.bias, seed=0)]
    hashes = np.array([perceptual_hash(image) for image in images], np.uint64)
    print(f"share of {len(images)} scenes within {MAX_HASH_DISTANCE} bits of themselves when altered")
    for name, alter in ALTERATIONS.items():
        altered = np.array([perceptual_hash(alter(image)) for image in images], np.uint64)
        distances = np.bitwise_count(hashes ^ altered)
        print(f"{name:20} {np.mean(distances <= MAX_HASH_DISTANCE):.3f}  median {np.median(distances):.0f} bits")
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])[np.triu_indices(len(hashes), 1)]
    for limit in (MAX_HASH_DISTANCE, 8, 12):
        print(f"pairs of different scenes within {limit} bits: {(distances <= limit).sum()} of {len(distances)}")
    for limit in (MAX_HASH_DISTANCE, 8, 12):
        sizes = np.bincount(duplicate_groups(hashes, limit))
        print(f"grouped at {limit} bits: {(sizes > 1).sum()} groups, the largest of {sizes.max()}")
    random = np.random.default_rng(0).integers(0, 2**64, settings.num_hashes, dtype=np.uint64)
    started = time.perf_counter()
    duplicate_groups(random, MAX_HASH_DISTANCE)
    print(f"{len(random)} hashes grouped in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

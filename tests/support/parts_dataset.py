"""A small dataset of hard objects: of several parts, with holes, of one pixel, touching, and an image without any."""

import io
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Features, Image, Value
from PIL import Image as PILImage

from support.scene_dataset import png
from ubgen_pipeline.dataset.columns import instances_value, objects_feature, objects_value
from ubgen_pipeline.dataset.shards import DatasetShards
from ubgen_pipeline.mask_regions import MaskObject, region_box

NAMES = ["disc", "ring"]
SIZE = (40, 56)


def hard_objects() -> list[list[tuple[int, np.ndarray]]]:
    """Label and region ``(40, 56)`` of the objects of each image; none overlap."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]

    def disc(centre_x, centre_y, radius):
        return (x - centre_x) ** 2 + (y - centre_y) ** 2 <= radius**2

    behind_bar = disc(20, 20, 14) & ~((x >= 18) & (x < 22))
    quarters = behind_bar & ~((y >= 18) & (y < 22))
    ring = disc(20, 20, 14) & ~disc(20, 20, 8)
    sieve = disc(20, 20, 16) & ~((x % 5 == 0) & (y % 4 == 0))
    noise = np.random.default_rng(0).random(SIZE) > 0.45
    pixel = (x == 50) & (y == 3)
    left, right = (y > 8) & (y < 30) & (x > 4) & (x < 20), (y > 8) & (y < 30) & (x >= 20) & (x < 33)
    return [
        [(0, disc(20, 20, 14))],
        [(0, behind_bar), (1, pixel)],
        [(0, quarters)],
        [(1, ring), (0, disc(20, 20, 3)), (0, disc(45, 30, 8))],
        [(1, sieve)],
        [(1, ring & ~((x >= 18) & (x < 22)))],
        [(0, noise)],
        [(0, left), (0, right)],
        [],
    ]


def write_parts_dataset(folder: Path, columns: tuple[str, ...] = ("mask", "instances", "objects")) -> list:
    """Write a finished dataset with these annotation columns, and ``polygons`` in the objects where it is among them.

    Returns what :func:`hard_objects` does.
    """
    images = hard_objects()
    polygons = "polygons" in columns
    features = {"image": Image(), "label": ClassLabel(names=NAMES), "index": Value("int64")}
    every = {"mask": Image(), "instances": Image(), "objects": objects_feature(NAMES, polygons=polygons)}
    features |= {name: feature for name, feature in every.items() if name in columns}
    rows = []
    for index, objects in enumerate(images):
        mask = np.zeros(SIZE, np.uint8)
        for label, region in objects:
            mask[region] = 1 + label
        found = [MaskObject(1 + label, region_box(r), int(r.sum()), 0.5, r) for label, r in objects]
        row = {"image": png(np.stack([mask] * 3, axis=2) * 100), "label": 0, "index": index, "mask": png(mask)}
        row |= {"instances": instances_value(found, SIZE), "objects": objects_value(found, polygons=polygons)}
        rows.append({name: row[name] for name in features})
    write_rows(folder, rows, Features(features))
    return images


def write_labelled(folder: Path, labels: list[int], names: list[str], *, flagged=(), codecs=(), damaged=()) -> None:
    """Write a finished dataset of images with these labels; ``flagged`` and ``damaged`` are rows, ``codecs``
    Pillow's formats."""
    features = {"image": Image(), "label": ClassLabel(names=names), "index": Value("int64")}
    rows = []
    for index, label in enumerate(labels):
        stream = io.BytesIO()
        pixels = np.random.default_rng(index).integers(0, 255, (8, 8, 3), np.uint8)
        PILImage.fromarray(pixels).save(stream, format=codecs[index] if codecs else "PNG")
        data = stream.getvalue()[: 60 if index in damaged else None]
        rows.append({"image": {"bytes": data, "path": None}, "label": label, "index": index})
    if flagged:
        features["nsfw_content_detected"] = Value("bool")
        rows = [{**row, "nsfw_content_detected": row["index"] in flagged} for row in rows]
    write_rows(folder, rows, Features(features))


def write_rows(folder: Path, rows: list[dict], features: Features) -> None:
    """Write rows as a finished dataset of one file."""
    shards = DatasetShards(folder, {"made": "for a test"}, len(rows), 100)
    shards.open()
    shards.write(shards.shards[0], rows, features)
    shards.finish("# Made for a test\n")

"""A small annotated dataset of rendered scenes, in the columns that ``ubgen generate`` writes: every mask is exact."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Features, Image, List, Value
from PIL import Image as PILImage

from ubgen_pipeline.dataset.shards import DatasetShards
from ubgen_pipeline.mask_regions import region_outlines
from ubgen_pipeline.mini.scenes import CLASS_NAMES, scenes

NUM_ROWS = 11


@dataclass(frozen=True)
class TrueRow:
    """What was written: ``image (64, 128, 3)``, ``mask`` and ``instances (64, 128)``, and of each object its label,
    box and region."""

    image: np.ndarray
    mask: np.ndarray
    instances: np.ndarray
    objects: list[tuple[int, tuple[int, int, int, int], np.ndarray]]


def true_rows(num_rows: int = NUM_ROWS) -> list[TrueRow]:
    """Two scenes beside each other, an ignored stripe through the right one's object; the last row shows nothing."""
    drawn = list(scenes(2 * num_rows, bias=0.0, seed=3))
    rows = []
    for left, right in zip(drawn[::2], drawn[1::2]):
        mask = np.zeros((64, 128), np.uint8)
        instances = np.zeros((64, 128), np.uint8)
        objects = []
        for number, (scene, shift) in enumerate(((left, 0), (right, 64)), 1):
            label = CLASS_NAMES.index(scene.factors.class_name)
            region = np.zeros((64, 128), bool)
            region[:, shift : shift + 64] = scene.mask
            if shift:
                region[:, (scene.box[0] + scene.box[2]) // 2 + 64] = False
            mask[:, shift : shift + 64][scene.mask] = 255
            mask[region], instances[region] = label + 1, number
            ys, xs = np.nonzero(region)
            box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
            objects.append((label, box, region))
        rows.append(TrueRow(np.concatenate([left.image, right.image], axis=1), mask, instances, objects))
    empty = np.zeros((64, 128), np.uint8)
    rows[-1] = TrueRow(rows[-1].image, empty, empty, [])
    return rows


def write_scene_dataset(
    folder: Path | str, *, with_annotations: bool = True, polygons: bool = False, samples_per_shard: int = 4
) -> list[TrueRow]:
    """Write the rows to ``folder`` as a finished dataset and return them; ``polygons`` adds the objects' outlines."""
    rows = true_rows()
    names = list(CLASS_NAMES)
    features = {"image": Image(), "label": ClassLabel(names=names), "class_name": Value("string")}
    features |= {"prompt": Value("string"), "seed": Value("int64"), "index": Value("int64")}
    if with_annotations:
        features |= {"mask": Image(), "instances": Image(), "heatmaps": List(Image())}
        features["objects"] = {
            "bbox": List(List(Value("int64"), length=4)),
            "category": List(ClassLabel(names=names)),
            "area": List(Value("int64")),
            "score": List(Value("float32")),
        }
        if polygons:
            features["objects"]["polygons"] = List(List(List(Value("float32"))))
    shards = DatasetShards(folder, {"made": "for a test"}, len(rows), samples_per_shard)
    shards.open()
    for shard in shards.shards:
        values = [_values(index, rows[index]) for index in range(shard.start, shard.stop)]
        if not polygons:
            for row in values:
                del row["objects"]["polygons"]
        kept = ({name: row[name] for name in features} for row in values)
        shards.write(shard, kept, Features(features))
    shards.finish("# Scenes\n")
    return rows


def _values(index: int, row: TrueRow) -> dict:
    label = row.objects[0][0] if row.objects else 0
    return {
        "image": png(row.image), "mask": png(row.mask), "instances": png(row.instances),
        "heatmaps": [png((255 * (row.instances == i + 1)).astype(np.uint8)) for i in range(len(row.objects))],
        "label": label, "class_name": CLASS_NAMES[label], "prompt": f"a “{CLASS_NAMES[label]}”\nwith more",
        "seed": 2**62 + index, "index": index,
        "objects": {
            "bbox": [[x0, y0, x1 - x0, y1 - y0] for _, (x0, y0, x1, y1), _ in row.objects],
            "category": [item[0] for item in row.objects],
            "area": [int(region.sum()) for *_, region in row.objects],
            "score": [0.75 for _ in row.objects],
            "polygons": [
                [points.reshape(-1).tolist() for points in region_outlines(region)] for *_, region in row.objects
            ],
        },
    }  # fmt: skip


def png(pixels: np.ndarray) -> dict:
    stream = io.BytesIO()
    PILImage.fromarray(pixels).save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": None}

"""Export to COCO's layout: ``images/``, ``annotations/instances_train.json``, and ``masks/`` with the class masks.

Category ids are label + 1 in the order of the dataset's classes, image ids the rows' numbers, annotation ids count
from 1. Segmentations are run lengths, which say a region exactly, or polygons where asked for: one for each connected
part, with its holes joined to its outside by bridges, since COCO has no word for a hole. An annotation is one object,
whatever it is made of, so ``iscrowd`` is 0: 1 would have evaluations leave it out.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset.annotated_rows import AnnotatedObject, AnnotatedRow, AnnotatedRows
from .image_folder import placed_name, write_file
from .outlines import part_polygons


def write_coco(
    source: AnnotatedRows, rows: Iterable[AnnotatedRow], folder: Path, *, polygon_grid: str | None = None
) -> None:
    """Images, masks and one JSON file, written while the rows pass.

    Args:
        source: where the rows come from.
        rows: the rows to write.
        folder: an empty folder.
        polygon_grid: of polygons, which are written instead of run lengths; see :mod:`.outlines`.

    Raises:
        ValueError: pycocotools, which packs run lengths, is not installed.
    """
    encode = _encoder() if polygon_grid is None else None
    for name in ("images", "annotations", *(["masks"] if source.has_masks else [])):
        (folder / name).mkdir()
    file, parts = folder / "annotations" / "instances_train.json", folder / "annotations" / "parts"
    categories = [
        {"id": label + 1, "name": name, "supercategory": ""} for label, name in enumerate(source.class_names)
    ]
    num_annotations = 0
    with open(file, "w", encoding="utf-8") as images, open(parts, "w", encoding="utf-8") as annotations:
        images.write('{"info": {"description": "made by ubgen"}, "licenses": [],\n"categories": ')
        images.write(json.dumps(categories) + ',\n"images": [')
        for position, row in enumerate(rows):
            name = placed_name(row.name, position, len(source))
            write_file(folder / "images" / f"{name}{row.suffix}", row.image)
            if row.mask is not None:
                write_file(folder / "masks" / f"{name}.png", row.values["mask"]["bytes"])
            width, height = row.size
            entry: dict[str, Any] = {
                "id": row.index,
                "file_name": f"{name}{row.suffix}",
                "width": width,
                "height": height,
            }
            if row.label is not None:
                # of the image, which may show no object; readers pass over words that they do not know
                entry["category_id"] = row.label + 1
            images.write((",\n" if position else "\n") + json.dumps(entry))
            for item in row.objects or []:
                num_annotations += 1
                annotation = _annotation(item, row, num_annotations, encode, polygon_grid or "borders")
                annotations.write((",\n" if num_annotations > 1 else "\n") + json.dumps(annotation))
        images.write('\n],\n"annotations": [')
        annotations.flush()
        with open(parts, encoding="utf-8") as written:
            shutil.copyfileobj(written, images)
        images.write("\n]}\n")
    parts.unlink()


def _annotation(item: AnnotatedObject, row: AnnotatedRow, number: int, encode: Any, grid: str) -> dict[str, Any]:
    x0, y0, x1, y1 = item.box
    if encode is not None and item.region is not None:
        packed = encode(np.asfortranarray(item.region, dtype=np.uint8))
        segmentation: Any = {
            "size": [int(side) for side in packed["size"]],
            "counts": packed["counts"].decode("ascii"),
        }
    else:
        segmentation = [points.reshape(-1).tolist() for points in part_polygons(item.outlines, grid)]
    entry = {
        "id": number,
        "image_id": row.index,
        "category_id": item.label + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": item.area,
        "iscrowd": 0,
        "segmentation": segmentation,
    }
    # not `score`, which marks detections instead of truth
    return entry if item.score is None else {**entry, "confidence": round(float(item.score), 6)}


def _encoder() -> Any:
    try:
        from pycocotools.mask import encode
    except ImportError as error:
        raise ValueError(
            "format is 'coco', whose run lengths need pycocotools; pip install pycocotools, or set polygons."
        ) from error
    return encode

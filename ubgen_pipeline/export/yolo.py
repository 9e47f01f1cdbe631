"""Export to YOLO's layout: ``images/train``, ``labels/train`` with a text file per image, ``data.yaml``.

A line is ``label x y width height`` of the box (centre and size, as shares of the image), or ``label x y x y …`` of
the object's outline, holes and parts joined by bridges. A line holds one polygon, so that readers which fill it paint
the bridges between parts, too.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

from ..dataset.annotated_rows import AnnotatedObject, AnnotatedRow, AnnotatedRows
from .image_folder import placed_name, write_file
from .outlines import num_parts, single_polygon


def write_yolo(
    source: AnnotatedRows, rows: Iterable[AnnotatedRow], folder: Path, *, polygon_grid: str | None = None
) -> list[str]:
    """Images, labels, class masks where there are any, and the description that trainers read.

    Args:
        source: where the rows come from.
        rows: the rows to write.
        folder: an empty folder.
        polygon_grid: of outlines, which are written instead of boxes; see :mod:`.outlines`.

    Returns:
        What the format could not hold.
    """
    for name in ("images", "labels", *(["masks"] if source.has_masks else [])):
        (folder / name / "train").mkdir(parents=True)
    num_joined = 0
    for position, row in enumerate(rows):
        name = placed_name(row.name, position, len(source))
        write_file(folder / "images" / "train" / f"{name}{row.suffix}", row.image)
        if row.mask is not None:
            write_file(folder / "masks" / "train" / f"{name}.png", row.values["mask"]["bytes"])
        lines = [yolo_line(item, row.size, polygon_grid) + "\n" for item in row.objects or []]
        num_joined += polygon_grid is not None and sum(num_parts(item.outlines) > 1 for item in row.objects or [])
        # an empty file says that there is nothing in the image
        write_file(folder / "labels" / "train" / f"{name}.txt", "".join(lines).encode())
    about = {"train": "images/train", "val": "images/train", "names": dict(enumerate(source.class_names))}
    (folder / "data.yaml").write_text(
        "# trainers want a `val`; these are the training images again: put images of your own there\n"
        + yaml.safe_dump(about, sort_keys=False, allow_unicode=True),
        encoding="utf-8",
    )
    if not num_joined:
        return []
    return [
        f"{num_joined} objects have several parts, which YOLO's one polygon joins by lines; readers that fill it paint"
        " these, one pixel wide"
    ]


def yolo_line(item: AnnotatedObject, size: tuple[int, int], polygon_grid: str | None = None) -> str:
    """The object's line; ``size`` is the image's (width, height), ``polygon_grid`` that of outlines; None: the box."""
    width, height = size
    x0, y0, x1, y1 = item.box
    if polygon_grid is not None:
        numbers = (single_polygon(item.outlines, polygon_grid) / np.array([width, height])).reshape(-1)
    else:
        numbers = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
    return " ".join([str(item.label), *(f"{number:.8g}" for number in numbers)])

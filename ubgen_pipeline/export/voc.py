"""Export to PASCAL VOC's layout under ``VOCdevkit/VOC2012``: JPEG images, XML boxes, palette masks, image sets.

Boxes count pixels from 1 and include their ends, as VOC's do. JPEG changes pixels a little; the masks are exact.
"""

import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ..dataset.annotated_rows import AnnotatedRow, AnnotatedRows
from ..mask_settings import IGNORE_LABEL
from .image_folder import placed_name, write_file

JPEG_QUALITY = 95
_SETS = ("train", "trainval")


def write_voc(source: AnnotatedRows, rows: Iterable[AnnotatedRow], folder: Path) -> None:
    """The layout that ``torchvision.datasets.VOCDetection`` and ``VOCSegmentation`` read with ``root=folder``."""
    root = folder / "VOCdevkit" / "VOC2012"
    parts = ["Main", "Segmentation"] if source.has_masks else ["Main"]
    names = ["JPEGImages", "Annotations", *(f"ImageSets/{part}" for part in parts)]
    for name in names + (["SegmentationClass", "SegmentationObject"] if source.has_masks else []):
        (root / name).mkdir(parents=True)
    lists = [open(root / "ImageSets" / part / f"{name}.txt", "w") for part in parts for name in _SETS]  # noqa: SIM115
    try:
        for position, row in enumerate(rows):
            place = placed_name(row.name, position, len(source))
            if row.suffix == ".jpg":
                data = row.image
            else:
                stream = io.BytesIO()
                row.decoded().save(stream, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
                data = stream.getvalue()
            write_file(root / "JPEGImages" / f"{place}.jpg", data)
            tree = voc_annotation(row, source.class_names)
            ElementTree.indent(tree)
            write_file(root / "Annotations" / f"{place}.xml", ElementTree.tostring(tree, encoding="utf-8"))
            if row.mask is not None:
                _save_palette(row.mask, root / "SegmentationClass" / f"{place}.png")
                _save_palette(_object_map(row), root / "SegmentationObject" / f"{place}.png")
            for stream, part in zip(lists, [part for part in parts for _ in _SETS]):
                # readers of the second look for a mask of every image that it lists
                if part == "Main" or row.mask is not None:
                    stream.write(place + "\n")
    finally:
        for stream in lists:
            stream.close()
    (root / "class_names.txt").write_text("".join(f"{name}\n" for name in source.class_names), encoding="utf-8")


def voc_annotation(row: AnnotatedRow, class_names: list[str]) -> ElementTree.Element:
    """The row's XML."""
    tree = ElementTree.Element("annotation")

    def add(parent: ElementTree.Element, name: str, text: object) -> None:
        ElementTree.SubElement(parent, name).text = str(text)

    add(tree, "folder", "VOC2012")
    add(tree, "filename", f"{row.name}.jpg")
    size = ElementTree.SubElement(tree, "size")
    for name, value in zip(("width", "height", "depth"), (*row.size, 3)):
        add(size, name, value)
    add(tree, "segmented", int(row.mask is not None))
    for item in row.objects or []:
        element = ElementTree.SubElement(tree, "object")
        x0, y0, x1, y1 = item.box
        add(element, "name", class_names[item.label])
        for name, value in (("pose", "Unspecified"), ("truncated", 0), ("difficult", 0)):
            add(element, name, value)
        box = ElementTree.SubElement(element, "bndbox")
        for name, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            add(box, name, f"{value:g}")
    return tree


def voc_palette() -> list[int]:
    """VOC's colours of the 256 values as flat RGB: the bits of a value spread over the channels' high bits."""
    palette = []
    for value in range(256):
        for channel in range(3):
            bits = [(value >> (3 * place + channel)) & 1 for place in range(8)]
            palette.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return palette


def _object_map(row: AnnotatedRow) -> np.ndarray:
    """``(H, W)`` uint8: object i of the XML has i + 1; 255 where the class mask says to ignore."""
    assert row.mask is not None
    objects = np.where(row.mask == IGNORE_LABEL, IGNORE_LABEL, 0).astype(np.uint8)
    if len(row.objects or []) > 254:
        raise ValueError(f"row {row.index} has {len(row.objects or [])} objects; VOC's masks hold 254 at most.")
    for number, item in enumerate(row.objects or [], 1):
        if item.region is not None:
            objects[item.region] = number
    return objects


def _save_palette(values: np.ndarray, file: Path) -> None:
    image = Image.frombytes("P", values.shape[::-1], values.astype(np.uint8).tobytes())
    image.putpalette(voc_palette())
    file.parent.mkdir(exist_ok=True)
    image.save(file, format="PNG")

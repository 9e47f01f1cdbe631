"""Export a finished dataset to ImageFolder, WebDataset, COCO, YOLO or PASCAL VOC layout.

``export_dataset`` is the Python call, ``main`` the body of ``ubgen export``. Rows stream, so memory does not grow with
the dataset. An export is there whole or not at all.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..commands.console import Progress, say, table
from ..commands.settings_parser import field_help, leading_folder, parse_settings, run_command
from ..dataset.annotated_rows import AnnotatedRow, AnnotatedRows
from ..dataset.columns import BLACK, NOT_FINITE_COLUMN, SAFETY_COLUMN, known_label
from ..files.places import check_is_local
from ..files.whole_files import whole_folder
from .coco import write_coco
from .image_folder import FILES_PER_FOLDER, write_imagefolder
from .outlines import GRIDS
from .voc import write_voc
from .webdataset import write_webdataset
from .yolo import write_yolo

# writer, which may give back what the format could not hold; whether it needs objects; grid of its polygons, if any
_FORMATS: dict[str, tuple[Callable[..., list[str] | None], bool, str | None]] = {
    "imagefolder": (write_imagefolder, False, None),
    "webdataset": (write_webdataset, False, None),
    "coco": (write_coco, True, "borders"),
    "yolo": (write_yolo, True, "pixels"),
    "voc": (write_voc, True, None),
}
FORMATS = tuple(_FORMATS)


@dataclass(frozen=True)
class ExportSettings:
    """Settings of ``ubgen export DIR``."""

    format: str = field_help(f"one of {', '.join(FORMATS)}")
    output_dir: str = field_help("folder of the export; new or empty")
    polygons: bool = field_help("COCO: polygons instead of run lengths; YOLO: outlines instead of boxes", False)
    polygon_grid: str | None = field_help(
        "polygons for readers that ask whether a pixel's centre lies inside (borders, the default for COCO), or that"
        " fill with OpenCV (pixels, the default for YOLO)",
        None,
    )
    accept_loss: bool = field_help("export although the format cannot hold all of the dataset's labels", False)
    empty_classes: str | None = field_help(
        "imagefolder: keep (empty folders) or drop classes without images, after which readers of folders number the"
        " others anew",
        None,
    )
    keep_flagged: bool = field_help(
        "also export images that are marked as black: flagged by the safety checker, or not finite", False
    )

    def __post_init__(self) -> None:
        check_is_local(self.output_dir, "output_dir")
        if self.format not in _FORMATS:
            raise ValueError(f"format is {self.format!r}; choose one of {', '.join(FORMATS)}.")
        if self.polygons and _FORMATS[self.format][2] is None:
            raise ValueError(f"polygons is set, but format {self.format!r} has no polygons; use coco or yolo.")
        if self.empty_classes not in (None, "keep", "drop"):
            raise ValueError(f"empty_classes is {self.empty_classes!r}; choose keep or drop.")
        if self.empty_classes is not None and self.format != "imagefolder":
            raise ValueError(f"empty_classes is {self.empty_classes!r}, which is for imagefolder alone; leave it out.")
        if self.polygon_grid is not None:
            if self.polygon_grid not in GRIDS:
                raise ValueError(f"polygon_grid is {self.polygon_grid!r}; choose one of {', '.join(GRIDS)}.")
            if not self.polygons:
                raise ValueError(f"polygon_grid is {self.polygon_grid!r}, but polygons is not set; set it.")


def export_dataset(dataset_dir: str | Path, settings: ExportSettings) -> int:
    """Write the export and return the number of its images.

    Args:
        dataset_dir: folder of a finished dataset.
        settings: format, place and details.

    Raises:
        ValueError: no finished dataset there, an export folder that holds something, a dataset without what the format
            needs, or a row that does not fit together; nothing is left behind.
    """
    source = AnnotatedRows(dataset_dir)
    writer, needs_objects, own_grid = _FORMATS[settings.format]
    if needs_objects and not source.has_objects:
        raise ValueError(
            f"format is {settings.format!r}, but {str(dataset_dir)!r} has neither masks nor objects; generate it with"
            " --annotations mask box, or export to imagefolder or webdataset."
        )
    if settings.format == "yolo" and not settings.polygons and source.has_masks and not settings.accept_loss:
        raise ValueError(
            "format is 'yolo', whose boxes hold no masks: of every object the outline will be lost. Set polygons to"
            " write outlines, or accept_loss for boxes alone; coco and voc hold both."
        )
    target = Path(settings.output_dir).expanduser()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ValueError(
            f"output_dir is {settings.output_dir!r}, which holds something; give a new or empty directory."
        )
    if isinstance(source.folder, Path) and target.resolve().is_relative_to(source.folder.resolve()):
        raise ValueError(f"output_dir is {settings.output_dir!r}, inside the dataset; give a directory elsewhere.")
    num_flagged = num_images = num_boxes = num_rewritten = num_unseen = 0

    def rows() -> Iterator[AnnotatedRow]:
        nonlocal num_flagged, num_images, num_boxes, num_rewritten, num_unseen
        for row in Progress(len(source), "images").counted(source):
            if not settings.keep_flagged and _is_black(row.values):
                num_flagged += 1
                continue
            num_images += 1
            num_rewritten += row.is_rewritten
            if needs_objects and row.objects is not None:
                # columns keep every object, as masks count them
                seen = [found for item in row.objects if (found := item.within(row.size)) is not None]
                num_unseen += len(row.objects) - len(seen)
                row = replace(row, objects=seen)
            num_boxes += sum(item.is_box for item in row.objects or [])
            yield row

    options: dict[str, Any] = {"polygon_grid": settings.polygon_grid or own_grid} if settings.polygons else {}
    if settings.format == "imagefolder":
        options = {"counts": _class_counts(source, settings), "empty_classes": settings.empty_classes}
    with whole_folder(target) as temporary:
        losses = writer(source, rows(), temporary, **options) or []
        if losses and not settings.accept_loss:
            raise ValueError(
                f"format is {settings.format!r}, which cannot hold all of the dataset's labels: {'; '.join(losses)}."
                " Set accept_loss to export it nevertheless, or choose coco, voc, webdataset or imagefolder."
            )
        names = json.dumps(source.class_names, indent=2, ensure_ascii=False)
        (temporary / "class_names.json").write_text(names + "\n", encoding="utf-8")
    left_out = f", {num_flagged} that are marked as black left out" if num_flagged else ""
    say(f"{target}: {num_images} images of {len(source.class_names)} classes{left_out}")
    if num_unseen:
        losses.append(f"{num_unseen} objects without a pixel in their image are left out")
    if num_rewritten:
        written = "JPEG" if settings.format == "voc" else "PNG"
        losses.append(
            f"{num_rewritten} images are written as {written}, upright and in 8 bits: of their files, readers would"
            " show something else or nothing"
        )
    if num_boxes and source.has_masks and needs_objects:
        losses.append(f"{num_boxes} objects are not in the masks with their box and area; they are exported as boxes")
    largest = max(Counter(file.parent for file in target.rglob("*") if file.is_file()).values(), default=0)
    if largest > FILES_PER_FOLDER:
        losses.append(
            f"a folder holds {largest} files, and one of the Hub takes {FILES_PER_FOLDER}: upload an archive of it, or"
            " export to webdataset or imagefolder for the Hub"
        )
    for loss in losses:
        say(loss)
    return num_images


def _is_black(values: Mapping[str, Any]) -> bool:
    """Whether a row's image is marked as black: flagged by the safety checker, or not finite."""
    return bool(values.get(SAFETY_COLUMN)) or values.get(NOT_FINITE_COLUMN) == BLACK


def _class_counts(source: AnnotatedRows, settings: ExportSettings) -> Counter[int]:
    """Images of each label that are exported."""
    labels = source.stored.column("label")
    if not settings.keep_flagged:
        names = [name for name in (SAFETY_COLUMN, NOT_FINITE_COLUMN) if name in source.features]
        marks = zip(*(source.stored.column(name) for name in names)) if names else [()] * len(labels)
        labels = [label for label, values in zip(labels, marks) if not _is_black(dict(zip(names, values)))]
    return Counter(label for label in map(known_label, labels) if label is not None)


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen export``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    dataset_dir, rest = leading_folder(argv, "ubgen export DIR --format … --output-dir …")
    settings = parse_settings(ExportSettings, rest, prog="ubgen export DIR", description=__doc__)
    num_images = export_dataset(dataset_dir, settings)
    files = [file for file in Path(settings.output_dir).expanduser().rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(table(("images", "files", "MB"), [(str(num_images), str(len(files)), f"{size / 1e6:.1f}")]))

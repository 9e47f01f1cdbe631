"""Export a finished dataset to ImageFolder, WebDataset, COCO, YOLO or PASCAL VOC layout.

``export_dataset`` is the Python call, ``main`` the body of ``ubgen export``. Rows stream, so memory does not grow with
the dataset. An export is there whole or not at all.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..commands.console import Progress, say, table
from ..commands.settings_parser import field_help, leading_folder, parse_settings, run_command
from ..dataset.annotated_rows import AnnotatedRow, AnnotatedRows
from ..files.whole_files import whole_folder
from .coco import write_coco
from .folders import write_imagefolder, write_webdataset
from .voc import write_voc
from .yolo import write_yolo

# writer, whether it needs objects, whether it can write polygons
_FORMATS: dict[str, tuple[Callable[..., None], bool, bool]] = {
    "imagefolder": (write_imagefolder, False, False),
    "webdataset": (write_webdataset, False, False),
    "coco": (write_coco, True, True),
    "yolo": (write_yolo, True, True),
    "voc": (write_voc, True, False),
}
FORMATS = tuple(_FORMATS)


@dataclass(frozen=True)
class ExportSettings:
    """Settings of ``ubgen export DIR``."""

    format: str = field_help(f"one of {', '.join(FORMATS)}")
    output_dir: str = field_help("folder of the export; new or empty")
    polygons: bool = field_help("COCO: polygons instead of run lengths; YOLO: outlines instead of boxes", False)
    keep_flagged: bool = field_help("also export images that the safety checker blackened", False)

    def __post_init__(self) -> None:
        if self.format not in _FORMATS:
            raise ValueError(f"format is {self.format!r}; choose one of {', '.join(FORMATS)}.")
        if self.polygons and not _FORMATS[self.format][2]:
            raise ValueError(f"polygons is set, but format {self.format!r} has no polygons; use coco or yolo.")


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
    writer, needs_objects, takes_polygons = _FORMATS[settings.format]
    if needs_objects and not source.has_objects:
        raise ValueError(
            f"format is {settings.format!r}, but {str(dataset_dir)!r} has neither masks nor objects; generate it with"
            " --annotations mask box, or export to imagefolder or webdataset."
        )
    target = Path(settings.output_dir).expanduser()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ValueError(
            f"output_dir is {settings.output_dir!r}, which holds something; give a new or empty directory."
        )
    if target.resolve().is_relative_to(source.folder.resolve()):
        raise ValueError(f"output_dir is {settings.output_dir!r}, inside the dataset; give a directory elsewhere.")
    num_flagged = num_images = 0

    def rows() -> Iterator[AnnotatedRow]:
        nonlocal num_flagged, num_images
        for row in Progress(len(source), "images").counted(source):
            if row.values.get("nsfw_content_detected") and not settings.keep_flagged:
                num_flagged += 1
                continue
            num_images += 1
            yield row

    options: dict[str, Any] = {"polygons": settings.polygons} if takes_polygons else {}
    with whole_folder(target) as temporary:
        writer(source, rows(), temporary, **options)
        names = json.dumps(source.class_names, indent=2, ensure_ascii=False)
        (temporary / "class_names.json").write_text(names + "\n", encoding="utf-8")
    left_out = f", {num_flagged} flagged by the safety checker left out" if num_flagged else ""
    say(f"{target}: {num_images} images of {len(source.class_names)} classes{left_out}")
    return num_images


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

"""Draw contact sheets of a generated dataset with its masks, boxes and heat maps, and count its classes.

Drawn with torchvision's utilities; heat maps are coloured with matplotlib's turbo.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..commands.console import table
from ..commands.settings_parser import field_help, leading_folder, parse_settings, run_command
from ..files.image_codecs import rgb_image
from ..files.places import Place, as_place, check_is_local
from ..mask_settings import IGNORE_LABEL
from .columns import OBJECTS_COLUMN, REVIEW_IOU_COLUMN, REVIEW_MASK_COLUMN, known_label, read_objects
from .damaged_images import read_row
from .reader import open_rows, shard_files

LAYERS = ("image", "mask", "box", "heatmap", "instance", "confidence", "review")
# which column a layer is drawn from
_COLUMNS = {
    "mask": "mask",
    "box": OBJECTS_COLUMN,
    "heatmap": "heatmaps",
    "instance": "instances",
    "confidence": "confidence",
    "review": REVIEW_MASK_COLUMN,
}
_TILE = 192


@dataclass(frozen=True)
class ShowSettings:
    """Settings of ``ubgen show``."""

    output_dir: str | None = field_help("folder for the sheets; `sheets` in the dataset's own if not given", None)
    layers: list[str] | None = field_help(
        "what to draw: image, mask, box, heatmap, instance, confidence, review (of `ubgen annotate --review`); all"
        " that the dataset has if not given",
        None,
    )
    num_per_class: int = field_help("images of each class", 4)
    worst_first: bool = field_help("of each class those with the lowest review_iou, instead of the first", False)
    images_per_sheet: int = field_help("images of one sheet", 40)
    split: str = field_help("split of the dataset", "train")

    def __post_init__(self) -> None:
        check_is_local(self.output_dir, "output_dir")
        for name in ("num_per_class", "images_per_sheet"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give an integer of at least 1.")
        for layer in self.layers or ():
            if layer not in LAYERS:
                raise ValueError(f"layers holds {layer!r}; choose from {', '.join(LAYERS)}.")


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen show``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    folder, argv = leading_folder(argv, "ubgen show DIR")
    settings = parse_settings(ShowSettings, argv, prog="ubgen show DIR", description=__doc__)
    for file in show_dataset(folder, settings):
        print(file)


def show_dataset(folder: "str | Place", settings: ShowSettings | None = None) -> list[Path]:
    """Write contact sheets of the dataset in ``folder``, print its counts, and return the sheets' files.

    Raises:
        ValueError: no dataset there, or a layer that it has no column for; or no ``output_dir`` for one at an address.
    """
    from datasets import load_dataset

    settings, folder = settings or ShowSettings(), as_place(folder)
    if isinstance(folder, Path):
        files = [str(file) for file in shard_files(folder, settings.split)]
        dataset: Any = load_dataset("parquet", data_files={settings.split: files}, split=settings.split)
        output = Path(settings.output_dir).expanduser() if settings.output_dir else folder / "sheets"
    else:
        if settings.output_dir is None:
            raise ValueError(
                f"output_dir is missing, and the dataset is at {str(folder)!r}; give a folder here for the sheets."
            )
        dataset = open_rows(str(folder), settings.split)
        output = Path(settings.output_dir).expanduser()
    layers = settings.layers or [
        layer for layer in LAYERS if layer == "image" or _COLUMNS[layer] in dataset.column_names
    ]
    for layer in layers:
        if layer != "image" and _COLUMNS[layer] not in dataset.column_names:
            way = (
                "add it with ubgen annotate --review"
                if layer == "review"
                else f"generate it with --annotations {layer}"
            )
            raise ValueError(f"layers holds {layer!r}, but the dataset has no column {_COLUMNS[layer]!r}; {way}.")
    names = dataset.features["label"].names
    print(class_counts(dataset, names))
    order = range(len(dataset))
    if settings.worst_first:
        if REVIEW_IOU_COLUMN not in dataset.column_names:
            raise ValueError(
                f"worst_first is set, but {str(folder)!r} has no column {REVIEW_IOU_COLUMN!r}; add it with"
                f" `ubgen annotate {folder} --model MODEL --review --output-dir OUT`."
            )
        agreement = dataset[REVIEW_IOU_COLUMN][:]
        # nothing in either mask is worse than any disagreement
        order = sorted(order, key=lambda row: -1.0 if agreement[row] is None else agreement[row])
    rows = _chosen([known_label(label) for label in dataset["label"]], settings.num_per_class, order)
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for number, start in enumerate(range(0, len(rows), settings.images_per_sheet)):
        sheet = contact_sheet(
            [read_row(dataset, row, str(folder)) for row in rows[start : start + settings.images_per_sheet]],
            layers,
            names,
        )
        written.append(output / f"sheet-{number:03d}.png")
        sheet.save(written[-1])
    return written


def class_counts(dataset: Any, names: Sequence[str]) -> str:
    """A table: for each class its images and, where they are annotated, its objects."""
    images, shown, objects = Counter(map(known_label, dataset["label"])), Counter(), Counter()
    has_objects = OBJECTS_COLUMN in dataset.column_names
    has_shown = "classes" in dataset.column_names
    for row in dataset.select_columns([name for name in ("classes", OBJECTS_COLUMN) if name in dataset.column_names]):
        shown.update(row.get("classes") or ())
        if has_objects:
            objects.update(item.label for item in read_objects(row[OBJECTS_COLUMN]))
    columns = {"images": images}
    columns |= {"shown in": shown} if has_shown else {}
    columns |= {"objects": objects} if has_objects else {}
    labels = [label for label in range(len(names)) if images[label] or shown[label]]
    rows = [[names[label], *(str(counts[label]) for counts in columns.values())] for label in labels]
    if images[None]:
        # what they show is counted with the classes above
        rows.append(["(no label)", str(images[None]), *[""] * (len(columns) - 1)])
    return table(("class", *columns), rows)


def contact_sheet(rows: Sequence[Mapping[str, Any]], layers: Sequence[str], names: Sequence[str]) -> Any:
    """A PIL image: one line of tiles per row of the dataset, one tile per layer (heat maps: one per class shown).

    Args:
        rows: decoded rows of a dataset.
        layers: of :data:`LAYERS`.
        names: of the classes.
    """
    import torch
    from torch.nn.functional import pad
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    lines = [[_tile(row, layer, number, names) for layer, number in _tiles(row, layers)] for row in rows]
    num_columns = max(map(len, lines))
    # images may have other proportions than their neighbours
    width = max(tile.shape[-1] for line in lines for tile in line)
    blank = torch.full((3, _TILE, width), 255, dtype=torch.uint8)
    tiles = [
        pad(tile, (0, width - tile.shape[-1]), value=255)
        for line in lines
        for tile in [*line, *[blank] * (num_columns - len(line))]
    ]
    return to_pil_image(make_grid(tiles, nrow=num_columns, padding=4, pad_value=255))


def _tiles(row: Mapping[str, Any], layers: Sequence[str]) -> list[tuple[str, int]]:
    num_maps = len(row["heatmaps"] or ()) if "heatmap" in layers else 0
    return [(layer, number) for layer in layers for number in range(num_maps if layer == "heatmap" else 1)]


def _tile(row: Mapping[str, Any], layer: str, number: int, names: Sequence[str]) -> Any:
    """``(3, _TILE, w)`` uint8 tensor of one layer over the row's image."""
    import torch
    from torchvision.transforms.functional import pil_to_tensor
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

    image = rgb_image(row["image"])
    scale = _TILE / image.height
    size = (round(image.width * scale), _TILE)
    base = pil_to_tensor(image.resize(size))
    colours = _colours(len(names))
    if layer != "image" and row[_COLUMNS[layer]] is None:
        # not every row has to have every annotation
        return base
    if layer in ("mask", "instance", "review"):
        values = torch.from_numpy(np.asarray(row[_COLUMNS[layer]].resize(size, 0)).astype(np.int64))
        present = [int(value) for value in values.unique() if value]
        if not present:
            return base
        chosen: Any = [
            (255, 255, 255)
            if layer != "instance" and value == IGNORE_LABEL
            else (_colours(256)[value % 256] if layer == "instance" else colours[value - 1])
            for value in present
        ]
        masks = torch.stack([values == value for value in present])
        return draw_segmentation_masks(base, masks, alpha=0.6, colors=chosen)
    if layer == "box":
        objects = read_objects(row[OBJECTS_COLUMN])
        if not objects:
            return base
        boxes = torch.tensor([item.box for item in objects], dtype=torch.float32) * scale
        labels = [names[item.label] + ("" if item.score is None else f" {item.score:.2f}") for item in objects]
        chosen = [colours[item.label] for item in objects]
        return draw_bounding_boxes(
            base,
            boxes,
            labels,
            chosen,
            width=2,
            label_colors="black",
            label_background_colors=chosen,
            fill_labels=True,
        )
    if layer in ("heatmap", "confidence"):
        picture = row["heatmaps"][number] if layer == "heatmap" else row["confidence"]
        scores = np.asarray(picture.resize(size)) / 255
        from matplotlib import colormaps

        heat = torch.from_numpy((colormaps["turbo"](scores)[..., :3] * 255).astype(np.uint8)).permute(2, 0, 1)
        return ((base.float() + heat.float()) / 2).to(torch.uint8)
    return base


def _colours(count: int) -> list[tuple[int, int, int]]:
    """Colours that differ between neighbours: hues a golden section of the circle apart."""
    from matplotlib.colors import hsv_to_rgb

    hues = (np.arange(max(count, 1)) * 0.618034) % 1
    colours = hsv_to_rgb(np.stack([hues, np.full_like(hues, 0.85), np.full_like(hues, 1.0)], axis=1)) * 255
    return [(int(red), int(green), int(blue)) for red, green, blue in colours]


def _chosen(labels: Sequence[int | None], num_per_class: int, order: Sequence[int]) -> list[int]:
    """Positions of the first so many rows of each class in that order, class by class; those without one come last."""
    of_class: dict[int | None, list[int]] = {}
    for position in order:
        if len(found := of_class.setdefault(labels[position], [])) < num_per_class:
            found.append(position)
    last = len(labels)
    return [
        position
        for label in sorted(of_class, key=lambda label: last if label is None else label)
        for position in of_class[label]
    ]

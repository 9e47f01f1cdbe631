"""Label a dataset's images with a trained segmenter or detector: a new dataset with masks and boxes."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..commands.console import Progress, say, say_warning, table
from ..commands.settings_parser import leading_folder, parse_settings, run_command
from ..dataset.card import card_in, copy_card
from ..dataset.columns import OBJECTS_COLUMN, instances_value, known_label, objects_feature, objects_value
from ..dataset.damaged_images import read_row
from ..dataset.reader import embedded_image, shard_files, stored_column, stored_features
from ..dataset.shards import DatasetShards, Shard
from ..files.image_codecs import png_bytes, rgb_image
from ..files.places import Place, as_place
from ..mask_regions import seen_parts
from ..models.fingerprints import fingerprint
from ..models.sources import public_name
from ..samples.source_dataset import SourceDataset
from .class_words import SharedWords, read_shared_words
from .settings import AnnotateSettings

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

    from .annotators import Annotator, Labelling

# Annotations of the dataset are replaced, or left out where the model gives none of that kind: they would tell of
# other objects than those that were found.
_OWN_COLUMNS = ("mask", "confidence", "heatmaps", "instances", OBJECTS_COLUMN, "annotator")


# beside the card: of each class in how many of its images it was found
FINDS_REPORT = "annotate_report.json"
_MOST_NAMED = 20


@dataclass(frozen=True)
class ClassFinds:
    """A class, the images that were drawn for it, and those of them in which an object of it was found."""

    name: str
    num_images: int
    num_found: int


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen annotate``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    folder, argv = leading_folder(argv, "ubgen annotate DIR --model MODEL --output-dir OUT")
    settings = parse_settings(AnnotateSettings, argv, prog="ubgen annotate DIR", description=__doc__)
    if settings.review:
        from .review import review_dataset, review_table

        reviewed = review_dataset(folder, settings)
        say(f"{settings.output_dir}: {len(reviewed)} rows reviewed by {settings.model}")
        print(review_table(reviewed))
        return
    num_rows = annotate_dataset(folder, settings)
    say(f"{settings.output_dir}: {num_rows} rows labelled by {settings.model}")
    files = shard_files(str(settings.output_dir))
    finds = finds_by_class(files)
    if empty := [item for item in finds if not item.num_found]:
        names = ", ".join(item.name for item in empty[:_MOST_NAMED]) + (" …" if len(empty) > _MOST_NAMED else "")
        say_warning(
            f"nothing was found of {len(empty)} of {len(finds)} classes, in any of their images: {names}; see"
            f" {FINDS_REPORT}. Other words may help (--class-map WORD=CLASS), or a lower --threshold."
        )
    if num_without := num_rows - sum(item.num_images for item in finds):
        say(f"{num_without} rows have no label: they were looked through for all classes, and count for none")
    num_objects = sum(len(objects["category"]) for objects in stored_column(files, OBJECTS_COLUMN))
    size = sum(file.stat().st_size for file in files)
    figures = [*map(str, (num_rows, num_objects, len(files))), f"{size / 1e6:.1f}"]
    print(table(("images", "objects", "shards", "MB"), [figures]))


def annotate_dataset(folder: str | Path, settings: AnnotateSettings) -> int:
    """Write the dataset in ``folder`` anew, with the model's labels in place of any before; returns its rows.

    The columns are ``mask`` and ``instances`` (from a segmenter, or a detector with ``mask_model``), ``objects`` and
    ``annotator``. Other annotations are left out, all other columns kept. Images are inside the new dataset, also
    where the old one names their files.

    Raises:
        ValueError: no dataset or model there, classes that do not map, or an output folder that holds something else.
    """
    source = SourceDataset(str(folder), settings.split)
    words = read_shared_words(settings.class_map or [], source.class_names)
    output_dir = str(settings.output_dir)
    if Path(output_dir).expanduser().resolve() == Path(folder).expanduser().resolve():
        raise ValueError(f"output_dir is {output_dir!r}, the dataset itself; give another folder.")
    if settings.skip_damaged:
        source.leave_out_damaged()
    later = {"objects": "regions", "skip_damaged": False, "negative_phrases": None}
    told = {name: value for name, value in asdict(settings).items() if name not in ("output_dir", "device", "review")}
    manifest = {
        **{name: value for name, value in told.items() if name not in later},
        # datasets that an earlier version began do not have these settings
        **{name: getattr(settings, name) for name, usual in later.items() if getattr(settings, name) != usual},
        "model": fingerprint(str(settings.model)),
        "mask_model": fingerprint(settings.mask_model),
        # not where a configuration lies, but what it says
        "class_map": [dict(words.class_map), list(words.stand_ins)],
        "source": source.fingerprint(),
        "versions": {name: version(name) for name in ("torch", "transformers", "pillow", "pyarrow")},
    }
    shards = DatasetShards(output_dir, manifest, len(source), settings.samples_per_shard)
    shards.check()
    if shards.is_finished():
        return len(source)
    shards.check_may_write()
    from .build_annotator import annotator_of

    annotator = annotator_of(settings, source.class_names, words.class_map)
    has_masks = annotator(_image(source.rows.select_columns(["image"]), 0, source.source)).mask is not None
    shards.open()
    missing = shards.missing()
    progress = Progress(sum(shard.stop - shard.start for shard in missing), "images")
    for shard in missing:
        rows = _rows(source, annotator, words, settings, shard)
        shards.write(shard, progress.counted(rows), _features(source, has_masks))
    finds = finds_by_class([shards.file(shard) for shard in shards.shards])
    num_without = len(source) - sum(item.num_images for item in finds)
    report = {"classes": [asdict(item) for item in finds], "num_rows_without_label": num_without}
    shards.write_report(FINDS_REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    shards.finish(_card(shards, source, settings, finds))
    return len(source)


def finds_by_class(files: Sequence[Place]) -> list[ClassFinds]:
    """What was found of each class that has images, in label order; rows without a label are of none."""
    names = stored_features(files[0])["label"].names
    images, found = Counter[int](), Counter[int]()
    labels = map(known_label, stored_column(files, "label"))
    for label, objects in zip(labels, stored_column(files, OBJECTS_COLUMN), strict=True):
        if label is not None:
            images[label] += 1
            found[label] += label in objects["category"]
    return [ClassFinds(names[label], images[label], found[label]) for label in sorted(images)]


def _rows(
    source: SourceDataset, annotator: "Annotator", words: SharedWords, settings: AnnotateSettings, shard: Shard
) -> Iterator[dict[str, Any]]:
    from datasets import Image

    # bytes go over as they are: decoding and encoding again would lose the file's own form
    kept = source.rows.remove_columns([name for name in _OWN_COLUMNS if name in source.rows.column_names])
    images = [name for name, feature in kept.features.items() if isinstance(feature, Image)]
    for name in images:
        kept = kept.cast_column(name, Image(mode=kept.features[name].mode, decode=False))
    decoded = source.rows.select_columns(["image"])
    for index in range(shard.start, shard.stop):
        values = kept[index]
        label = known_label(values["label"])
        # a row without a label has no own class, and is looked through for all
        own_label = words.stand_ins[label] if settings.own_class_only and label is not None else None
        labelling = words.in_row(annotator(_image(decoded, index, source.source), own_label), label)
        values |= {name: embedded_image(values[name]) for name in images}
        yield {**values, **_columns(labelling), "annotator": public_name(str(settings.model))}


def _image(images: Any, index: int, source: str) -> "PilImage":
    """The image in RGB of a row of the column ``image``."""
    row = read_row(images, index, source)
    return rgb_image(row["image"], f"row {index} of {source}, column 'image',")


def _columns(labelling: "Labelling") -> dict[str, Any]:
    if labelling.mask is None:
        return {OBJECTS_COLUMN: objects_value(labelling.objects)}
    objects = seen_parts(labelling.objects)
    return {
        OBJECTS_COLUMN: objects_value(objects),
        "mask": {"bytes": png_bytes(labelling.mask), "path": None},
        "instances": instances_value(objects, labelling.mask.shape),
    }


def _features(source: SourceDataset, has_masks: bool) -> Any:
    from datasets import Features, Image, Value

    columns = {name: feature for name, feature in source.rows.features.items() if name not in _OWN_COLUMNS}
    columns[OBJECTS_COLUMN] = objects_feature(source.class_names)
    if has_masks:
        columns |= {"mask": Image(), "instances": Image()}
    return Features({**columns, "annotator": Value("string")})


def _card(
    shards: DatasetShards, source: SourceDataset, settings: AnnotateSettings, finds: Sequence[ClassFinds]
) -> str:
    from ubgen_hub_cards.card_text import markdown_text

    num_without = len(source) - sum(item.num_images for item in finds)
    lines = [
        f"The {len(source)} rows of `{source.public_name()}`, labelled by the model"
        f" `{public_name(str(settings.model))}` with threshold {settings.threshold}."
        " Nobody has checked the labels."
    ]
    if num_without:
        lines += ["", f"{num_without} of the rows have no label; they were looked through for all classes."]
    if empty := [f"| {markdown_text(item.name)} | {item.num_images} |" for item in finds if not item.num_found]:
        lines += ["", "Nothing was found of these classes in any of their images:", ""]
        lines += ["| class | images |", "|---|---:|", *empty]
    return copy_card(shards, card_in(as_place(source.source)), "Labelled images", lines)

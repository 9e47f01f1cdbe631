"""Label a dataset's images with a trained segmenter or detector: a new dataset with masks and boxes."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..commands.console import Progress, say, table
from ..commands.settings_parser import field_help, leading_folder, parse_settings, run_command
from ..dataset.columns import OBJECTS_COLUMN, instances_value, objects_feature, objects_value
from ..dataset.damaged_images import read_row
from ..dataset.reader import embedded_image, shard_files, stored_column
from ..dataset.shards import DatasetShards, Shard
from ..files.image_codecs import png_bytes, rgb_image
from ..mask_regions import seen_parts
from ..models.fingerprints import fingerprint
from ..models.sources import public_name
from ..samples.source_dataset import SourceDataset
from .class_words import SharedWords, read_shared_words

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

    from .annotators import Annotator, Labelling

# Annotations of the dataset are replaced, or left out where the model gives none of that kind: they would tell of
# other objects than those that were found.
_OWN_COLUMNS = ("mask", "confidence", "heatmaps", "instances", OBJECTS_COLUMN, "annotator")


# What of a segmenter's mask is one object: a connected region of a class; all pixels of a class; or what one query of
# a universal segmenter (Mask2Former and its like, trained on instances) found, whose parts may lie apart.
OBJECTS = ("regions", "classes", "queries")


@dataclass(frozen=True)
class AnnotateSettings:
    """Settings of ``ubgen annotate``."""

    model: str | None = field_help(
        "segmenter or detector of transformers (folder or Hub id), or a folder of train_segmenter.py", None
    )
    output_dir: str | None = field_help("folder of the new dataset; an unfinished one is resumed", None)
    class_map: list[str] | None = field_help(
        "MODEL_CLASS=CLASS where the model calls a class otherwise; for a detector that is told its classes, the words"
        " to look for; or DiffuGen's configuration, in which several classes may share a word",
        None,
    )
    mask_model: str | None = field_help("SAM or its like, for masks in a detector's boxes", None)
    threshold: float = field_help(
        "least probability of a pixel's class, which else is ignored, or of a box, which else is dropped", 0.5
    )
    min_area: float = field_help("least share of the image that an object covers", 0.005)
    objects: str = field_help(
        "what of a segmenter's mask is one object: regions (connected ones), classes (all pixels of a class), or"
        " queries (what a universal segmenter trained on instances tells apart, parts together)",
        "regions",
    )
    skip_damaged: bool = field_help("leave rows with damaged images out, counted; else the first stops the run", False)
    own_class_only: bool = field_help("look for each row's own class alone", False)
    split: str = field_help("split of the dataset", "train")
    samples_per_shard: int = field_help("rows of a parquet file", 256)
    device: str | None = field_help("cpu, cuda, …; CUDA where there is one, if not given", None)

    def __post_init__(self) -> None:
        if self.model is None or self.output_dir is None:
            raise ValueError(f"{'model' if self.model is None else 'output_dir'} is missing; give it.")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; choose from 0 to 1.")
        if not 0 <= self.min_area < 1:
            raise ValueError(f"min_area is {self.min_area}; give a share of the image from 0 to below 1.")
        if self.objects not in OBJECTS:
            raise ValueError(f"objects is {self.objects!r}; choose one of {', '.join(OBJECTS)}.")
        if self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard is {self.samples_per_shard}; give an integer of at least 1.")


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen annotate``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    folder, argv = leading_folder(argv, "ubgen annotate DIR --model MODEL --output-dir OUT")
    settings = parse_settings(AnnotateSettings, argv, prog="ubgen annotate DIR", description=__doc__)
    num_rows = annotate_dataset(folder, settings)
    say(f"{settings.output_dir}: {num_rows} rows labelled by {settings.model}")
    files = shard_files(str(settings.output_dir))
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
    import torch

    from .build_annotator import build_annotator

    source = SourceDataset(str(folder), settings.split)
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    words = read_shared_words(settings.class_map or [], source.class_names)
    output_dir = str(settings.output_dir)
    if Path(output_dir).expanduser().resolve() == Path(folder).expanduser().resolve():
        raise ValueError(f"output_dir is {output_dir!r}, the dataset itself; give another folder.")
    if settings.skip_damaged:
        source.leave_out_damaged()
    later = {"objects": "regions", "skip_damaged": False}
    manifest = {
        **{name: value for name, value in asdict(settings).items() if name not in ("output_dir", "device", *later)},
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
    annotator = build_annotator(
        str(settings.model),
        source.class_names,
        words.class_map,
        mask_model=settings.mask_model,
        threshold=settings.threshold,
        min_area=settings.min_area,
        objects=settings.objects,
        device=device,
    )
    has_masks = annotator(_image(source.rows.select_columns(["image"]), 0, source.source)).mask is not None
    shards.open()
    missing = shards.missing()
    progress = Progress(sum(shard.stop - shard.start for shard in missing), "images")
    for shard in missing:
        rows = _rows(source, annotator, words, settings, shard)
        shards.write(shard, progress.counted(rows), _features(source, has_masks))
    shards.finish(_card(source, settings))
    return len(source)


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
        label = values["label"]
        own_label = words.stand_ins[label] if settings.own_class_only else None
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


def _card(source: SourceDataset, settings: AnnotateSettings) -> str:
    return (
        "---\ntags:\n- synthetic\n- ubgen\n---\n\n# Labelled images\n\n"
        f"The {len(source)} rows of `{source.public_name()}`, labelled by the model"
        f" `{public_name(str(settings.model))}` with threshold {settings.threshold}."
        " Nobody has checked the labels.\n"
    )

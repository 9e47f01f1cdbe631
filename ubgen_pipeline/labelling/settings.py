"""Settings of ``ubgen annotate``. No torch."""

from dataclasses import dataclass

from ..commands.settings_parser import field_help

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
    negative_phrases: list[str] | None = field_help(
        "for a model that is told its classes: PHRASE=CLASS, or PHRASE for all classes, which it looks for, too, and"
        " which is no object of the class",
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
    review: bool = field_help(
        "keep the dataset's own annotations, and put the model's mask and its IoU with theirs beside them", False
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
        if self.review and self.skip_damaged:
            raise ValueError(
                "review is set, and skip_damaged, too; a review keeps every row, so leave one of them out."
            )
        if self.samples_per_shard < 1:
            raise ValueError(f"samples_per_shard is {self.samples_per_shard}; give an integer of at least 1.")

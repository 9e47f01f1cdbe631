"""The card of a generated dataset: a function of how it was made and of the shards that are there.

Class names, prompts and templates are user text; see :mod:`ubgen_hub_cards.card_text`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from datasets import DatasetInfo, Features
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import DatasetCardData

from .card_templates import card_template
from .card_text import is_hub_id, markdown_block, public_source, without_tokens
from .dataset_plots import Statistics, short_figure, small_plot

TEMPLATE = "dataset_card.md.jinja"
# the Hub's own categories, by the largest count of rows that each takes
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
_REPORT_HEADING, _NEXT_HEADING = "## Bias report", "## Classes"
# what stands before the note on the licence, by which it is found again
LICENCE_NOTE_MARK = "**Before these images train other models:** "
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{1,60}")

COLUMN_NOTES = {
    "image": "what the model drew, as PNG without loss",
    "label": "number of the class that was asked for; nobody has checked that the image shows it",
    "class_name": "the class's name as it was given",
    "prompt": "the text that the image was drawn from, made from the class by the template",
    "seed": "a hash of the run's seed, the class (its id, else its name) and the image's number within the class;"
    " the initial noise is drawn from it alone",
    "index": "the row's number in the whole dataset; classes take turns",
    "model": "the generator",
    "model_revision": "its commit on the Hub, where it comes from there; of a checkpoint in one file, that of the"
    " model that has what the file lacks",
    "lora": "the LoRA on it, if any; a list where there are several, or one of another strength than 1",
    "lora_revision": "its commit on the Hub, where it comes from there",
    "lora_strength": "what each LoRA's change of the weights was multiplied by",
    "num_inference_steps": "denoising steps",
    "true_cfg_scale": "strength of classifier-free guidance beside the number that the model reads",
    "guidance_scale": "strength of classifier-free guidance; 1 or less means none",
    "scheduler": "class of the scheduler in diffusers",
    "negative_prompt": "the text that the image was guided away from, if any",
    "preset": "the lossy shortcut that the image was drawn with",
    "few_step_lora": "the LoRA for a few steps beside it, if the preset takes one",
    "few_step_lora_strength": "what its change of the weights was multiplied by",
    "diversity": "noise in the conditioning that the image was drawn with, by its own seed: see arXiv 2310.17347",
    "guidance_interval": "shares of noise, from 0 to 1, between which steps were guided",
    "num_prompt_chunks": "tokenizer lengths that every prompt of the run was filled up to, where prompts may be long",
    "attributes": "what the template's placeholders were filled with",
    "model_class": "what the labelling model of the configuration calls the class",
    "not_finite": "of an image that held NaN when it was drawn: `redrawn` in float32 by itself, or `black`, since it"
    " held NaN then, too; null for all others",
    "filename": "the caption's name in the file of captions",
    "classes": "all classes that the image was asked to show",
    "mask": "a class for each pixel: 0 background, label + 1, 255 not decided; made from the model's attention while"
    " it drew, or kept from the source row",
    "confidence": "255 times how sure the mask's pixels are",
    "heatmaps": "255 times each class's score, in the order of `classes`",
    "instances": "0 nothing, i + 1 the pixels of object i",
    "objects": "connected regions of the mask: box (x, y, width, height), class, area, mean score and outline",
    "annotator": "the model that labelled the image, or whose mask its own was compared with",
    "review_mask": "the annotator's mask, in the numbers of `mask`",
    "review_iou": "mean IoU of `mask` and `review_mask` over the classes in either; null where neither has any",
    "task": "how the image was drawn: from a source image, or in a region of one",
    "source_dataset": "the dataset that the source image is from",
    "source_split": "its split",
    "source_index": "the source image's row there",
    "strength": "share of the denoising that the source image went through",
    "region": "what was drawn anew",
    "clip_score": "cosine, from -1 to 1, of the image and its own class's text for a CLIP",
    "zero_shot_label": "the class whose text is nearest to the image for a CLIP",
    "zero_shot_probability": "that class's probability, by a softmax over the texts of all classes",
    "perceptual_hash": "64 bits of the image's DCT hash (pHash), in hexadecimal; near-duplicates differ in few bits;"
    " null where the image is black all over",
    "duplicate_group": "`index` of the first row of this row's group of near-duplicates",
    "nsfw_content_detected": "whether the generator's own safety checker flagged the image, which is black then",
}


@dataclass(frozen=True)
class Source:
    """A model or LoRA: an embedded one, a Hub id with its commit, or a local path's last part; its licence if known.

    Attributes:
        licence_note: what to know of it before the images train other models, as plain text of one line.
        strength: of a LoRA.
        completed_by: of a checkpoint in one file, the model that has what the file lacks; ``revision`` is that
            model's.
    """

    name: str
    revision: str | None = None
    licence: Mapping[str, str] = field(default_factory=dict)
    licence_note: str | None = None
    strength: float = 1.0
    completed_by: str | None = None


@dataclass(frozen=True)
class DatasetFacts:
    """What was generated.

    Args:
        class_names: in label order.
        counts: rows of each class that are there.
        samples_per_class: rows of each class when the dataset is whole.
        features: columns and their types.
        generator, loras: what drew it; the dataset inherits the generator's licence.
        seed: of the run.
        settings: names and values of the others that decide the images.
        texts: settings that are free text and may hold anything.
        num_bytes: of the files that are there.
        repo_id: on the Hub, or None for a local dataset.
        versions: of the libraries.
        device: what it ran on.
        bias_report: text of a bias report, if one was made.
        column_notes: how each column was made, beside ``COLUMN_NOTES``.
        num_samples: rows when the dataset is whole; None: equally many of each class.
        num_flagged: rows that a safety checker flagged, where they were counted.
        filter_report: what ``ubgen filter`` left out to make this dataset, as it writes it.
        throughput: text about how fast the images were drawn, if it is known.
        column_values: what the numbers in a column's images mean, by column, as JSON values for the metadata.
        statistics: of the rows, where they were read.
    """

    class_names: Sequence[str]
    counts: Sequence[int]
    samples_per_class: int
    features: Features
    generator: Source
    loras: Sequence[Source]
    seed: int
    settings: Mapping[str, object]
    texts: Mapping[str, str] = field(default_factory=dict)
    num_bytes: int = 0
    repo_id: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    bias_report: str | None = None
    column_notes: Mapping[str, str] = field(default_factory=dict)
    num_samples: int | None = None
    num_flagged: int | None = None
    filter_report: Mapping[str, Any] | None = None
    throughput: str | None = None
    column_values: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def num_rows(self) -> int:
        return sum(self.counts)

    @property
    def num_rows_in_all(self) -> int:
        return self.samples_per_class * len(self.class_names) if self.num_samples is None else self.num_samples

    @property
    def is_balanced(self) -> bool:
        return len(set(self.counts)) == 1

    @property
    def is_whole(self) -> bool:
        return self.num_rows == self.num_rows_in_all

    @property
    def takes_turns(self) -> bool:
        """Whether classes do, and not the rows of a source or captions, of which a class may have none."""
        is_even = self.num_rows_in_all == self.samples_per_class * len(self.class_names)
        return is_even and (self.is_balanced or not self.is_whole)


@dataclass(frozen=True)
class CopyFacts:
    """A dataset that ubgen made from another one's rows, of which it does not know how they were made.

    Args:
        title: of the card, as Markdown.
        lines: of its text, as Markdown.
        features: columns and their types.
        num_rows: of the dataset.
        is_synthetic: whether the images were generated.
        licence, licence_note: those of the other dataset's card; see :class:`Source`.
        column_values: see :class:`DatasetFacts`.
    """

    title: str
    lines: Sequence[str]
    features: Features
    num_rows: int
    is_synthetic: bool
    licence: Mapping[str, str] = field(default_factory=dict)
    licence_note: str | None = None
    column_values: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def render_copy_card(facts: CopyFacts) -> str:
    """The card's Markdown, metadata first.

    It tells no sizes, so that it holds for any number of the dataset's files: a reader holds sizes against the rows.
    """
    metadata = DatasetCardData(
        tags=["synthetic", "ubgen"] if facts.is_synthetic else ["ubgen"],
        **_common_metadata(facts.num_rows, facts.licence, facts.column_values),
    )
    DatasetInfosDict({"default": DatasetInfo(features=facts.features)}).to_dataset_card_data(metadata)
    note = [] if facts.licence_note is None else ["", f"{LICENCE_NOTE_MARK}{facts.licence_note}"]
    body = "\n".join([f"# {facts.title}", "", *facts.lines, *note, ""])
    return f"---\n{metadata.to_yaml()}\n---\n\n{without_tokens(body)}"


def _common_metadata(
    num_rows: int, licence: Mapping[str, str], column_values: Mapping[str, Mapping[str, int]]
) -> dict[str, Any]:
    """What the metadata of every dataset's card tells."""
    told: dict[str, Any] = {
        "size_categories": [next((name for most, name in _SIZES.items() if num_rows < most), "n>10M")]
    }
    if _LICENCE.fullmatch(str(licence.get("license", ""))):
        told |= {name: value for name, value in licence.items() if name.startswith("license")}
    if column_values:
        told["column_values"] = {name: dict(values) for name, values in column_values.items()}
    return told


def dataset_metadata(facts: DatasetFacts) -> DatasetCardData:
    """The card's metadata; its ``dataset_info`` gives columns and classes, and once the dataset is whole its size.

    A reader holds sizes against the rows, so that those of the whole would make a partial dataset unreadable.
    """
    splits = SplitDict()
    if facts.is_whole:
        # images are stored as they are, so the rows are about as large as the files
        splits.add(SplitInfo("train", num_bytes=facts.num_bytes, num_examples=facts.num_rows))
    metadata = DatasetCardData(
        pretty_name=f"Generated images of {len(facts.class_names)} classes",
        task_categories=["image-classification"],
        annotations_creators=["machine-generated"],
        tags=["synthetic", "ubgen"],
        **_common_metadata(facts.num_rows_in_all, facts.generator.licence, facts.column_values),
    )
    info = DatasetInfo(features=facts.features)
    if facts.is_whole:
        info = DatasetInfo(
            features=facts.features, splits=splits, download_size=facts.num_bytes, dataset_size=facts.num_bytes
        )
    DatasetInfosDict({"default": info}).to_dataset_card_data(metadata)
    return metadata


def render_dataset_card(facts: DatasetFacts) -> str:
    """The card's Markdown, metadata first."""
    notes = {**COLUMN_NOTES, **facts.column_notes}
    body = card_template(TEMPLATE, figure=short_figure, plot=small_plot).render(
        facts=facts,
        columns={name: notes.get(name, f"see ubgen's documentation; {kind}") for name, kind in _kinds(facts.features)},
        classes=list(zip(facts.class_names, facts.counts, strict=True)),
        place=facts.repo_id if facts.repo_id is not None else "FOLDER",
        generator_is_on_hub=is_hub_id(facts.generator.name),
        licence=facts.generator.licence.get("license"),
        licence_note_mark=LICENCE_NOTE_MARK,
        settings={
            name: public_source(value) if isinstance(value, str) else value
            for name, value in facts.settings.items()
            if value is not None
        },
        report_lines=markdown_block(facts.bias_report or ""),
        throughput_lines=markdown_block(facts.throughput or ""),
    )
    # not the metadata: there the class names must be those of the rows
    return f"---\n{dataset_metadata(facts).to_yaml()}\n---\n\n{without_tokens(body)}"


def licence_note_of(card: str) -> str | None:
    """The note on the generator's licence in a card of :func:`render_dataset_card`; None where it has none."""
    for line in card.split("\n"):
        if line.startswith(LICENCE_NOTE_MARK):
            return line.removeprefix(LICENCE_NOTE_MARK)
    return None


def with_bias_report(card: str, report: str) -> str:
    """A card, maybe edited by hand, with the report in its section in place of an earlier one; all else as it is.

    For a card as :func:`render_dataset_card` makes it, it gives the one that has the report among its facts.
    """
    lines, section = card.split("\n"), [_REPORT_HEADING, "", *markdown_block(without_tokens(report)), ""]
    headings = [number for number, line in enumerate(lines) if line.startswith("## ")] + [len(lines)]
    for heading, following in pairwise(headings):
        if lines[heading].rstrip() == _REPORT_HEADING:
            return "\n".join([*lines[:heading], *section, *lines[following:]])
    # before the classes, of which there may be thousands
    place = next((number for number in headings[:-1] if lines[number] == _NEXT_HEADING), len(lines))
    return "\n".join([*lines[:place], *section, *lines[place:]])


def _kinds(features: Features) -> list[tuple[str, str]]:
    return [(name, type(feature).__name__) for name, feature in features.items()]

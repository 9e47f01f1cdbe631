"""Find class names with several meanings: classes whose images fall into two groups for a CLIP.

The body of ``ubgen check-names DIR``. It prints the classes that split, the rows to look at for each group, and what
WordNet knows by that name. With ``--classes FILE`` no image is needed: see :mod:`.class_list_table`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ubgen_pipeline.commands.settings_parser import field_help, leading_folder, parse_settings, run_command
from ubgen_pipeline.dataset.annotated_rows import AnnotatedRows
from ubgen_pipeline.files.places import check_is_local
from ubgen_pipeline.models.devices import usable_device
from ubgen_pipeline.prompts.word_senses import word_senses

from .class_list_table import FLAGS, show_class_list
from .name_senses import MIN_IMAGES, split_classes, split_labels

NUM_EXAMPLES = 3


@dataclass(frozen=True)
class CheckNamesSettings:
    """Settings of ``ubgen check-names DIR``."""

    clip_model: str = field_help(
        "mini, a CLIP or SigLIP of transformers (folder or Hub id), or open_clip:ARCHITECTURE/PRETRAINED", "mini"
    )
    max_p_value: float = field_help("how unlikely the split must be in a Gaussian of the same covariance", 0.05)
    min_share: float = field_help("least share of the smaller group", 0.2)
    batch_size: int = field_help("images encoded together", 64)
    device: str = field_help("where the CLIP runs", "cpu")
    output: str | None = field_help("JSON file for the figures of every class", None)

    def __post_init__(self) -> None:
        check_is_local(self.output, "output")
        split_labels({}, max_p_value=self.max_p_value, min_share=self.min_share)
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; give 1 or more.")


def check_names(dataset_dir: str | Path, settings: CheckNamesSettings) -> list[dict[str, Any]]:
    """Figures of every class with enough images, those that split first.

    Args:
        dataset_dir: folder of a finished dataset.
        settings: the CLIP and the limits.

    Returns:
        For each class: label, class_name, splits (whether it does), num_images, p_value, z, smaller_share, silhouette,
        examples (the numbers of the rows in the middle of either group) and senses (WordNet id to definition).

    Raises:
        ValueError: no finished dataset, no class with at least ``MIN_IMAGES`` images, or a CLIP that cannot be loaded.
    """
    source = AnnotatedRows(dataset_dir)
    encode = load_image_encoder(settings.clip_model, usable_device(settings.device))
    labels, numbers, features = [], [], []
    for batch in _batches(source, settings.batch_size):
        features.append(encode([image for image, *_ in batch]))
        labels += [label for _, label, _ in batch]
        numbers += [number for *_, number in batch]
    splits = split_classes(np.concatenate(features), labels)
    if not splits:
        raise ValueError(
            f"{str(dataset_dir)!r} has no class with {MIN_IMAGES} images; generate more: fifty of each tell well."
        )
    found = split_labels(splits, max_p_value=settings.max_p_value, min_share=settings.min_share)
    places = {label: np.flatnonzero(np.array(labels) == label) for label in splits}
    result = []
    for label in [*found, *(label for label in splits if label not in found)]:
        split, name = splits[label], source.class_names[label]
        result.append(
            {
                "label": label,
                "class_name": name,
                "splits": label in found,
                "num_images": len(split.groups),
                "p_value": split.p_value,
                "z": split.z,
                "smaller_share": split.smaller_share,
                "silhouette": split.silhouette,
                "examples": [
                    [int(numbers[places[label][place]]) for place in group[:NUM_EXAMPLES]] for group in split.centres
                ],
                "senses": word_senses(name),
            }
        )
    return result


def load_image_encoder(name: str, device: str = "cpu") -> Callable[[Sequence[Image.Image]], np.ndarray]:
    """A function from B RGB images to CLIP features ``(B, F)`` float32.

    Raises:
        ValueError: the CLIP cannot be loaded.
    """
    import torch

    from ubgen_pipeline.models.clip_encoders import load_clip_encoder, picture_pixels

    encoder = load_clip_encoder(name).to(device)

    @torch.no_grad()
    def encode(images: Sequence[Image.Image]) -> np.ndarray:
        pixels = [picture_pixels(image).to(device) for image in images]
        # images of several sizes do not stack
        batches = [torch.cat(pixels)] if len({image.size for image in images}) == 1 else pixels
        return torch.cat([encoder.encode_images(batch).float() for batch in batches]).cpu().numpy()

    return encode


def _batches(source: AnnotatedRows, size: int) -> Iterator[list[tuple[Image.Image, int, int]]]:
    """(image, label, number) of the rows that have a label and were not blackened by the safety checker."""
    batch = []
    for row in source:
        if row.label is None or row.values.get("nsfw_content_detected"):
            continue
        batch.append((row.decoded(), row.label, row.index))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


_ABOUT = (
    "Find class names with several meanings: classes whose images fall into two groups for a CLIP. In place of DIR, "
    "--classes FILE or --class-names NAME ... shows what a class list is understood as, by the model of --model."
)


def main(argv: Sequence[str] | None = None) -> int:
    """``ubgen check-names``: the exit code, 2 for what the user can put right."""
    return run_command(_body, argv)


def _body(argv: Sequence[str]) -> None:
    if any(word.partition("=")[0] in FLAGS for word in argv):
        show_class_list(argv)
        return
    dataset_dir, rest = leading_folder(argv, "ubgen check-names DIR, or ubgen check-names --classes FILE")
    settings = parse_settings(CheckNamesSettings, rest, prog="ubgen check-names DIR", description=_ABOUT)
    result = check_names(dataset_dir, settings)
    found = [item for item in result if item["splits"]]
    for item in found:
        first, second = (", ".join(map(str, rows)) for rows in item["examples"])
        print(
            f"{item['class_name']}: {item['num_images']} images in two groups ({item['smaller_share']:.0%} in the"
            f" smaller, p = {item['p_value']:.2g}); compare rows {first} with rows {second}"
        )
        if len(item["senses"]) > 1:
            print(*(f"    {wnid}: {text}" for wnid, text in item["senses"].items()), sep="\n")
    print(f"{len(found)} of {len(result)} classes split")
    if settings.output is not None:
        Path(settings.output).expanduser().write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

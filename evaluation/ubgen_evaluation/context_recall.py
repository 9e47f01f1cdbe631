"""Whether images show the contexts that their prompts name: backgrounds, textures, or what else templates were filled
with.

A generator may draw another context in the place of one that it was asked for, and neither labels nor rewards tell of
it. An image is compared with its own prompt and with the same prompt in which another of the dataset's values stands
in that place. It shows its context where its own prompt is the nearest for a CLIP.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize

from ubgen_pipeline.dataset.damaged_images import read_row
from ubgen_pipeline.models.clip_encoders import ClipEncoder, picture_pixels

from .feature_extraction import open_image

# values that fewer images have say little, and of many values the rarer ones are not looked at
MIN_IMAGES = 5
MOST_VALUES = 50
# of each value, chosen by the seed
MOST_IMAGES = 100


class ContextRecall(NamedTuple):
    """Of the images whose prompts name ``value`` for ``placeholder``: ``shown`` ``(N,)`` bool."""

    placeholder: str
    value: str
    shown: np.ndarray

    @property
    def share(self) -> float:
        """Of the images that show it."""
        return float(self.shown.mean())


def context_recall(rows: Any, encoder: ClipEncoder, source: str = "the dataset", seed: int = 0) -> list[ContextRecall]:
    """For each value of each placeholder, whether the images that were asked for it show it.

    Args:
        rows: a ``datasets.Dataset`` with the columns ``image``, ``prompt`` and ``attributes``.
        encoder: the CLIP.
        source: what the dataset is called, for errors.
        seed: of the choice among more than ``MOST_IMAGES`` images.

    Returns:
        Placeholders and values in the order of their names. A placeholder with one value only is left out, and so is a
        value that occurs in fewer than ``MIN_IMAGES`` prompts, exactly once in each.

    Raises:
        ValueError: an image that cannot be read.
    """
    prompts, attributes = rows["prompt"], rows["attributes"]
    asked = _asked(prompts, attributes)
    chosen: dict[tuple[str, str], np.ndarray] = {}
    rng = np.random.default_rng(seed)
    for (placeholder, value), numbers in sorted(asked.items()):
        some = rng.choice(numbers, min(len(numbers), MOST_IMAGES), replace=False)
        chosen[placeholder, value] = np.sort(some)
    if not chosen:
        return []
    wanted = np.unique(np.concatenate([*chosen.values()]))
    images = _image_features(rows.select_columns(["image"]), wanted.tolist(), encoder, source)
    values_of = defaultdict(list)
    for placeholder, value in chosen:
        values_of[placeholder].append(value)
    texts = {
        (placeholder, value, number): [_with_value(prompts[number], value, other) for other in values_of[placeholder]]
        for (placeholder, value), numbers in chosen.items()
        for number in numbers.tolist()
    }
    place = {text: index for index, text in enumerate(dict.fromkeys(text for row in texts.values() for text in row))}
    with torch.no_grad():
        features = normalize(encoder.encode_texts([*place]).float(), dim=-1).cpu().numpy()
    found = []
    for (placeholder, value), numbers in chosen.items():
        own = values_of[placeholder].index(value)
        hits = []
        for number in numbers.tolist():
            others = features[[place[text] for text in texts[placeholder, value, number]]]
            hits.append(int((others @ images[np.searchsorted(wanted, number)]).argmax()) == own)
        found.append(ContextRecall(placeholder, value, np.array(hits)))
    return found


def _asked(prompts: Sequence[str], attributes: Sequence[Mapping[str, str | None]]) -> dict[tuple[str, str], list[int]]:
    """Numbers of the rows by placeholder and value, without those of which nothing can be said."""
    rows: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, (prompt, given) in enumerate(zip(prompts, attributes, strict=True)):
        for placeholder, value in (given or {}).items():
            if value and len(_places(prompt, value)) == 1:
                rows[placeholder, value].append(number)
    kept: dict[tuple[str, str], list[int]] = {}
    for placeholder in sorted({placeholder for placeholder, _ in rows}):
        counts = Counter({key: len(numbers) for key, numbers in rows.items() if key[0] == placeholder})
        frequent = [key for key, count in counts.most_common(MOST_VALUES) if count >= MIN_IMAGES]
        if len(frequent) > 1:
            kept |= {key: rows[key] for key in frequent}
    return kept


def _places(prompt: str, value: str) -> list[tuple[int, int]]:
    """Where the value stands in the prompt, as words of its own."""
    return [match.span() for match in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", prompt)]


def _with_value(prompt: str, value: str, other: str) -> str:
    ((start, stop),) = _places(prompt, value)
    return prompt[:start] + other + prompt[stop:]


@torch.no_grad()
def _image_features(rows: Any, numbers: Sequence[int], encoder: ClipEncoder, source: str) -> np.ndarray:
    """Unit features ``(N, F)`` of the images of N rows, one at a time: they may differ in size."""
    device, features = next(encoder.model.parameters()).device, []
    for number in numbers:
        image = open_image(read_row(rows, number, source), number)
        features.append(normalize(encoder.encode_images(picture_pixels(image).to(device)).float(), dim=-1)[0])
    return torch.stack(features).cpu().numpy()

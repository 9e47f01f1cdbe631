"""Grounding DINO (Liu et al. 2023) told the classes as one text, "a cat. a dog."; boxes come with a class each.

The model scores tokens, not classes: a class has the mean probability of its own tokens, as in the paper's evaluation
on COCO. The processor's way, to read back the tokens above a threshold, gives parts of names and several in one.

Shapes: C classes, Q queries, L tokens of a text.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

MODEL_TYPES = ("grounding-dino", "mm-grounding-dino")


class PhraseBoxes:
    """Finds the phrases' things in an image.

    Args:
        network: ``GroundingDinoForObjectDetection`` or its like, ready to run.
        processor: its own.
        phrases: the classes in words; several texts are read, one after the other, where one does not hold all.
        device: where it runs.

    Raises:
        ValueError: a phrase that alone is longer than the model reads.
    """

    def __init__(self, network: Any, processor: Any, phrases: Sequence[str], device: str):
        self._network, self._processor, self._device = network, processor, device
        self._texts = _texts(processor.tokenizer, phrases, network.config.max_text_len)

    def __call__(self, image: Image.Image, threshold: float) -> list[tuple[int, float, list[float]]]:
        """Index of the phrase, score in [0, 1] and box (x0, y0, x1, y1) in pixels of what scores ``threshold``."""
        found = []
        width, height = image.size
        for text, spans in self._texts:
            inputs = self._processor(images=image, text=text, return_tensors="pt").to(self._device)
            output = self._network(**inputs)
            scores = phrase_scores(output.logits[0].float().cpu(), list(spans.values()))
            best, places = scores.max(dim=1)
            centre_x, centre_y, box_width, box_height = output.pred_boxes[0].float().cpu().unbind(dim=1)
            sides = torch.stack(
                [
                    (centre_x - box_width / 2) * width,
                    (centre_y - box_height / 2) * height,
                    (centre_x + box_width / 2) * width,
                    (centre_y + box_height / 2) * height,
                ],
                dim=1,
            )
            phrases = list(spans)
            found += [
                (phrases[place], score, box)
                for place, score, box in zip(places.tolist(), best.tolist(), sides.tolist())
                if score >= threshold
            ]
        return found


def phrase_scores(logits: torch.Tensor, spans: Sequence[Sequence[int]]) -> torch.Tensor:
    """Probabilities ``(Q, C)`` of phrases that take those places of the text.

    Args:
        logits: ``(Q, L)``.
        spans: of each phrase, its tokens' places in the text.
    """
    probabilities = logits.sigmoid()
    return torch.stack([probabilities[:, list(span)].mean(dim=1) for span in spans], dim=1)


def _texts(tokenizer: Any, phrases: Sequence[str], max_length: int) -> list[tuple[str, dict[int, list[int]]]]:
    """Texts that hold all phrases, and where: index of the phrase -> places of its tokens."""
    # a full stop ends a phrase; the model was trained on lower case
    plain = [" ".join(phrase.replace(".", " ").lower().split()) for phrase in phrases]
    if bare := [phrase for phrase, text in zip(phrases, plain) if not text]:
        raise ValueError(
            f"class or phrase {bare[0]!r} has no word to look for; give it one with class_map WORD=CLASS."
        )
    texts, first = [], 0
    while first < len(plain):
        last = first + 1
        while last < len(plain) and _length(tokenizer, plain[first : last + 1]) <= max_length:
            last += 1
        if (length := _length(tokenizer, plain[first:last])) > max_length:
            raise ValueError(
                f"phrase {phrases[first]!r} takes {length} tokens of the model's text, which holds {max_length}; give"
                " a shorter word for it with class_map WORD=CLASS."
            )
        texts.append((_joined(plain[first:last]), _spans(tokenizer, plain[first:last], first)))
        first = last
    return texts


def _joined(phrases: Sequence[str]) -> str:
    return "".join(f"{phrase}. " for phrase in phrases).rstrip()


def _length(tokenizer: Any, phrases: Sequence[str]) -> int:
    return len(tokenizer(_joined(phrases))["input_ids"])


def _spans(tokenizer: Any, phrases: Sequence[str], first: int) -> dict[int, list[int]]:
    offsets = tokenizer(_joined(phrases), return_offsets_mapping=True)["offset_mapping"]
    spans, start = {}, 0
    for number, phrase in enumerate(phrases, first):
        end = start + len(phrase)
        spans[number] = [place for place, (left, right) in enumerate(offsets) if start <= left < right <= end]
        start = end + len(". ")
    return spans

"""Masks of the things that a phrase names, by a segmenter that takes words (SAM 3, arXiv 2511.16719).

The model is asked for one phrase at a time and finds all its instances, each of as many parts as it sees. The image
is encoded once.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image

from ..files.image_codecs import rgb_image
from ..mask_regions import MaskObject, region_box
from .annotators import Labelling
from .phrases import Phrases

# model types of transformers' configurations, and the classes of the networks that take words
NETWORKS = {"sam3": "Sam3Model", "sam3_video": "Sam3Model", "sam3_lite_text": "Sam3LiteTextModel"}
PROCESSOR = "Sam3Processor"
# the processor fills texts up to that many tokens and cuts none
_MOST_TOKENS = 32


class PhraseMaskAnnotator:
    """Labels one image; objects are instances, and the smaller one lies on top in the mask.

    Args:
        network: of :data:`NETWORKS`, on ``device``.
        processor: its own.
        phrases: what is looked for.
        threshold: least score of an instance.
        min_area: least share of the image that it covers.
        device: where it runs.

    Raises:
        ValueError: a phrase that is longer than the model reads.
    """

    def __init__(self, network: Any, processor: Any, phrases: Phrases, threshold: float, min_area: float, device: str):
        self._network, self._processor, self._phrases, self._device = network, processor, phrases, device
        self._threshold, self._min_area = threshold, min_area
        for phrase in phrases.asked:
            if (length := len(processor.tokenizer(phrase)["input_ids"])) > _MOST_TOKENS:
                raise ValueError(
                    f"phrase {phrase!r} takes {length} tokens, and the model reads {_MOST_TOKENS}; give a shorter word"
                    " for it with class_map WORD=CLASS."
                )

    @torch.no_grad()
    def __call__(self, image: Image.Image, own_label: int | None = None) -> Labelling:
        image = rgb_image(image)
        size = image.size[::-1]
        pixels = self._processor(images=image, return_tensors="pt")["pixel_values"].to(self._device)
        encoded = self._network.get_vision_features(pixel_values=pixels)
        found = []
        for place in self._phrases.of_class(own_label):
            text = self._processor(text=self._phrases.asked[place], return_tensors="pt").to(self._device)
            output = self._network(
                vision_embeds=encoded, input_ids=text["input_ids"], attention_mask=text["attention_mask"]
            )
            instances = self._processor.post_process_instance_segmentation(
                output, threshold=self._threshold, target_sizes=[size]
            )[0]
            for score, region in zip(instances["scores"].tolist(), instances["masks"].cpu().numpy().astype(bool)):
                area = int(region.sum())
                if area and area >= self._min_area * region.size:
                    value = int(self._phrases.table[place])
                    found.append(MaskObject(value, region_box(region), area, score, region))
        objects = self._phrases.settle(found, asked_by_one=True)
        mask = np.zeros(size, np.uint8)
        for item in sorted(objects, key=lambda item: -item.area):
            mask[item.region] = item.value
        return Labelling(mask, objects)

"""How well an image fits its class for a CLIP, and which class the CLIP would say it shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch.nn.functional import normalize

from ..models.clip_encoders import load_clip_encoder, picture_pixels


@dataclass(frozen=True)
class ClipScore:
    """What a CLIP says of one image.

    Attributes:
        score: cosine of the image's feature and that of its own class's text, in [-1, 1].
        label: the class whose text is nearest; the image's own where several classes share that text.
        probability: of that text, in (0, 1]: a softmax over the texts of all classes at the CLIP's own temperature.
    """

    score: float
    label: int
    probability: float


class ClipScorer:
    """Scores images one at a time, so that a score depends on no other image. Safe to call from several threads.

    Args:
        name: see :func:`.clip_encoders.load_clip_encoder`.
        class_names: in label order.
        template: of a class's text, with ``{name}``.
        device: where the CLIP runs, in float32.

    Raises:
        ValueError: a CLIP that cannot be loaded.
    """

    def __init__(self, name: str, class_names: Sequence[str], template: str, device: str = "cpu"):
        self._encoder, self._device = load_clip_encoder(name).to(device), device
        texts = [template.replace("{name}", class_name) for class_name in class_names]
        distinct = list(dict.fromkeys(texts))
        # a class's text, and the first class of each text: two classes may have one name
        self._text_of = [distinct.index(text) for text in texts]
        self._first_class = [texts.index(text) for text in distinct]
        self._text_features = normalize(self._encoder.encode_texts(distinct).float(), dim=-1)
        scale = getattr(self._encoder.model, "logit_scale", None)
        # CLIP's temperature where a model does not say its own (Radford et al. 2021, section 2.5)
        self._scale = 100.0 if scale is None else float(scale.exp())

    @torch.no_grad()
    def __call__(self, image: Image.Image, label: int) -> ClipScore:
        """The scores of an RGB image of the class ``label``."""
        features = normalize(self._encoder.encode_images(picture_pixels(image).to(self._device)).float(), dim=-1)
        cosines = (features @ self._text_features.T)[0].clamp(-1, 1)
        own, nearest = self._text_of[label], int(cosines.argmax())
        # equal features tie, and a tie is no mistake
        nearest = own if cosines[own] == cosines[nearest] else nearest
        probability = (self._scale * cosines).softmax(dim=0)[nearest]
        return ClipScore(
            score=float(cosines[own]),
            label=label if nearest == own else self._first_class[nearest],
            probability=float(probability),
        )

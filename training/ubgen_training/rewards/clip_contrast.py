"""How surely a CLIP chooses an image's own text among all of a training's: a zero-shot classifier's log-probability.

``clip_alignment`` asks an image to be like its own text, however like the others it is, and goes on asking where the
image shows all that the text says. This reward asks that the image can be told from those of the other texts, and is
content where it can. With captions that name contexts the others are the same class in another context.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn.functional import normalize

from ubgen_pipeline.models.clip_encoders import ClipEncoder

from .clip_alignment import encode_class_texts
from .clip_reward import ClipReward


class ClipContrastReward(ClipReward):
    """1 + log p(c_i | image i) / log N, where p is the softmax over N texts of CLIP's scaled cosines: the loss that
    CLIP was trained with (Radford et al. 2021, arXiv 2103.00020), over the training's texts.

    A value is 1 where the image's own text is chosen for sure, 0 where all texts fit alike, and negative where others
    fit better.

    Args:
        encoder: the CLIP, whose own scale of the cosines is taken.
        class_names: all N names, in label order.
        prompt: template of the texts.

    Raises:
        ValueError: a ``prompt`` without ``{name}``, or fewer than two classes, among which nothing is decided.
    """

    __name__ = "clip_contrast"
    differentiable = True

    def __init__(self, encoder: ClipEncoder, class_names: Sequence[str], prompt: str = "photo of {name}"):
        if len(class_names) < 2:
            raise ValueError(
                f"reward 'clip_contrast' decides among classes, and class_names holds {len(class_names)}; name two or "
                "more, or leave it out."
            )
        self.encoder = encoder
        texts = encode_class_texts(encoder, class_names, prompt)
        self.text_features = normalize(texts.detach().float(), dim=-1)

    def values(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Values ``(B,)``, at most 1."""
        texts = self.text_features.to(features.device)
        scores = self.encoder.logit_scale * normalize(features.float(), dim=-1) @ texts.T
        log_probability = scores.log_softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
        return 1 + log_probability / math.log(len(texts))

"""The reward of individual image alignment: how well an image fits its own class's description (paper Eq. 6)."""

import warnings
from collections.abc import Sequence

import torch
from torch.nn.functional import cosine_similarity, normalize

from ubgen_pipeline.models.clip_encoders import ClipEncoder

from .clip_reward import ClipReward

PAIRINGS = ("matching", "all")

# cosine above which two texts are one to the encoder; rounding keeps equal ones from 1
_SAME_TEXT = 1 - 1e-5


def encode_class_texts(
    encoder: ClipEncoder, class_names: Sequence[str], prompt: str, setting: str = "clip_prompt"
) -> torch.Tensor:
    """Features ``(N, F)`` of ``prompt`` with each of the N names in the place of ``{name}``.

    Warns where two classes have one text to the encoder, which then cannot tell their images apart.

    Args:
        encoder: the CLIP.
        class_names: N names.
        prompt: a template.
        setting: what errors call the template.

    Raises:
        ValueError: a ``prompt`` without ``{name}``.
    """
    if "{name}" not in prompt:
        raise ValueError(f"{setting} is {prompt!r}; it must hold {{name}}, as in 'photo of {{name}}'.")
    features = encoder.encode_texts([prompt.replace("{name}", name) for name in class_names])
    units = normalize(features.detach().float(), dim=-1)
    for label in range(1, len(units)):
        # one row at a time: a class list may hold many thousand names
        alike = (units[:label] @ units[label]) > _SAME_TEXT
        if alike.any():
            first, second = class_names[int(alike.nonzero()[0])], class_names[label]
            warnings.warn(
                f"classes {first!r} and {second!r} have the same text features in clip_model, so no reward of it can "
                f"tell their images apart; give them other names, or another {setting}.",
                stacklevel=3,
            )
            break
    return features


class ClipAlignmentReward(ClipReward):
    """cos(image feature of image i, text feature of "photo of c_i"); L_in is one minus it.

    Args:
        encoder: the CLIP.
        class_names: all N names, in label order.
        prompt: template of the description.
        negative_prompt: template that an image should not fit, such as "blurry photo of {name}": the similarity to it
            is taken off, so that what the two have in common is not rewarded (SRPO, arXiv 2509.06942, section 3.3).
        pairing: ``matching`` as in the paper, or ``all``: an image's mean similarity to every description in the
            batch, as the released code has it, for comparison.

    With ``all`` a value depends on the whole batch, and the reward says so by ``reads_whole_batch``.

    Raises:
        ValueError: unknown ``pairing``, or a ``prompt`` without ``{name}``.
    """

    __name__ = "clip_alignment"
    differentiable = True

    def __init__(
        self,
        encoder: ClipEncoder,
        class_names: Sequence[str],
        prompt: str = "photo of {name}",
        pairing: str = "matching",
        negative_prompt: str | None = None,
    ):
        if pairing not in PAIRINGS:
            raise ValueError(f"alignment_pairs is {pairing!r}; choose one of {', '.join(PAIRINGS)}.")
        self.encoder = encoder
        self.pairing = pairing
        self.reads_whole_batch = pairing == "all"
        self.text_features = encode_class_texts(encoder, class_names, prompt)
        self.negative_features = None
        if negative_prompt is not None:
            self.negative_features = encode_class_texts(
                encoder, class_names, negative_prompt, setting="clip_negative_prompt"
            )

    def values(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Similarities ``(B,)`` in [-1, 1], or differences of two in [-2, 2] where there is a negative prompt."""
        values = self._similarities(features, self.text_features.to(features.device)[labels])
        if self.negative_features is None:
            return values
        return values - self._similarities(features, self.negative_features.to(features.device)[labels])

    def _similarities(self, features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        if self.pairing == "matching":
            return cosine_similarity(features, text_features, dim=-1)
        return cosine_similarity(features[:, None], text_features[None], dim=-1).mean(dim=1)

"""A reward for variety within a class. It is ubgen's own: the paper's loss (arXiv 2412.10831) has no such term.

Each of the paper's terms looks at one image and at texts, so a class may swap its one background for another and stay
as uniform as it was. Here the images of a class in one batch are compared with each other. What sets them apart along
the class's own text is left out, so that no image gains by fitting its class less.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import normalize

from ubgen_pipeline.models.clip_encoders import ClipEncoder

from .clip_alignment import encode_class_texts
from .clip_reward import ClipReward

# features nearer to their class's text than half a degree count less than fully, or their gradient would explode
_LEAST_LENGTH = 0.01


class ClassVarietyReward(ClipReward):
    """Mean distance of an image to the other images of its class in the batch, in CLIP's features.

    With the feature f_i of image i, the unit text feature t of its class, and P = I - t tᵀ, the reward is the mean
    over the other images j of that class of ½‖u_i - u_j‖² = 1 - u_i·u_j, where u = P f / ‖P f‖. It is 0 for an image
    that is alone of its class. Normalised after the projection and not before, u does not change as f moves along t:
    the gradient at f has no part along t.

    Args:
        encoder: the CLIP.
        class_names: all N names, in label order.
        prompt: template of the class's text.

    Raises:
        ValueError: a ``prompt`` without ``{name}``.
    """

    __name__ = "class_variety"
    differentiable = True
    reads_whole_batch = True
    compares_within_class = True

    def __init__(self, encoder: ClipEncoder, class_names: Sequence[str], prompt: str = "photo of {name}"):
        self.encoder = encoder
        self.directions = normalize(encode_class_texts(encoder, class_names, prompt).float(), dim=-1)

    def values(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Distances ``(B,)`` in [0, 2]."""
        features = features.float()
        along = self.directions.to(features.device)[labels]
        # a length of its own does not count, so the features are made comparable before their length is bounded below
        features = normalize(features, dim=-1)
        rest = features - (features * along).sum(dim=-1, keepdim=True) * along
        units = normalize(rest, dim=-1, eps=_LEAST_LENGTH)
        partners = labels[:, None] == labels[None]
        partners = partners & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        distances = (units[:, None] - units[None]).square().sum(dim=-1) / 2
        return (distances * partners).sum(dim=1) / partners.sum(dim=1).clamp(min=1)

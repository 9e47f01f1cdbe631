"""A reward for variety within classes and across them: how much volume a set of images spans in CLIP's features.

It is ubgen's own; the paper's loss (arXiv 2412.10831) has no such term. The log-determinant of a set's Gram matrix is
the coding rate of MCR² (arXiv 2006.08558, Eq. 8) and grows with every direction that an image adds to those before it.
A mean of pairwise distances, as in :mod:`.class_variety`, is flat where it matters: two opposite surroundings give 1.0
and ten orthogonal ones 0.9. Here a new direction counts the more the fewer there are, and small differences between
images that are nearly equal grow fastest.

Three things are taken off the features first: the part along the class's own text, so that no image gains by fitting
its class less; the centre, which is the mean of what is left over the first images of the run; and the length. The
centre must not follow the images: with a running mean a move that all classes make together goes unseen.

Shapes: B images, F feature width, M remembered images of a class.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import normalize

from ubgen_pipeline.models.clip_encoders import ClipEncoder

from .clip_alignment import encode_class_texts
from .clip_reward import ClipReward

# features that are left nearer to the centre than this count less than fully, or their gradient would explode
_LEAST_LENGTH = 0.01
Gather = Callable[[torch.Tensor], torch.Tensor]


class LogDetVarietyReward(ClipReward):
    """How much an image's class gains in volume by the images of the batch, plus ``across`` times the same over all.

    With the units u of a class's n images, those of the batch and the M remembered ones, and α = F / (n ε²), the
    class's gain is

        (log det(I + α U Uᵀ) - log det(I + α V Vᵀ)) / (m log(1 + α)),

    where V are the remembered units and m the class's images in the batch. It is 1 where each image of the batch is
    orthogonal to all others, and near 0 where they repeat what is there. All images of a class have the same value.
    :meth:`marginal` is for trainings that have no gradient to tell them apart: what is lost without an image,

        (log det(I + α W Wᵀ) - log det(I + α W'W'ᵀ)) / log(1 + α),

    where W holds the units of the class, remembered ones among them, and W' all of them but the image's.

    The reward is called without side effects. :meth:`remember` notes a batch that was trained on; what it has noted is
    in :meth:`state_dict`. Over several processes the batch is the gathered one, and each image's gradient is what it
    would be on one process.

    Args:
        encoder: the CLIP.
        class_names: all N names, in label order.
        prompt: template of the class's text.
        memory: images of each class that are remembered, the newest; 0 compares within the batch alone.
        across: weight of the gain over all classes.
        noise: ε², the variance below which two directions count as one, relative to units of squared length 1.
        centre_batches: batches whose mean is the centre, from the first on; later ones leave it as it is.

    Raises:
        ValueError: a number out of range, or a ``prompt`` without ``{name}``.
    """

    __name__ = "logdet_variety"
    differentiable = True
    reads_whole_batch = True
    compares_within_class = True

    def __init__(
        self,
        encoder: ClipEncoder,
        class_names: Sequence[str],
        prompt: str = "photo of {name}",
        *,
        memory: int = 12,
        across: float = 0.75,
        noise: float = 0.5,
        centre_batches: int = 8,
    ):
        for name, value, least in (("memory", memory, 0), ("centre_batches", centre_batches, 1)):
            if value < least:
                raise ValueError(f"{name} is {value}; give {least} or more.")
        if not noise > 0:
            raise ValueError(f"noise is {noise}; give more than 0.")
        if not across >= 0:
            raise ValueError(f"across is {across}; give 0 or more.")
        self.encoder = encoder
        self.directions = normalize(encode_class_texts(encoder, class_names, prompt).float(), dim=-1)
        self.memory, self.across, self.noise, self.centre_batches = memory, across, noise, centre_batches
        self._gather: Gather = lambda share: share
        self._rank = 0
        self._seen: tuple[torch.Tensor, torch.Tensor] | None = None
        self._centre = torch.zeros(self.directions.shape[-1])
        self._num_batches = 0
        self._remembered: dict[int, torch.Tensor] = {}

    def over_processes(self, gather: Gather, rank: int) -> None:
        """Compare with the images of all processes.

        Args:
            gather: joins the processes' tensors of one shape along the first axis, in the order of their ranks.
            rank: of this process.
        """
        self._gather, self._rank = gather, rank

    def values(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Gains ``(B,)``."""
        return self._compared(features, labels, self._gain)

    @torch.no_grad()
    def marginal(
        self,
        images: torch.Tensor,
        class_names: Sequence[str],
        labels: torch.Tensor,
        *,
        image_features: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Each image's own part ``(B,)``; arguments as those of a call. Its memory is that of :meth:`values`."""
        features = self.encoder.encode_images(images) if image_features is None else image_features
        return self._compared(features, labels.to(features.device), self._losses)

    def _compared(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        measure: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """``measure`` of each class and of all, ``(B,)``; see :meth:`_gain` for its arguments."""
        rest, all_labels, is_own = self._whole_batch(self._rest(features, labels), labels)
        self._seen = rest.detach(), all_labels
        centre = rest.detach().mean(dim=0) if self._num_batches == 0 else self._centre.to(rest.device)
        units = normalize(rest - centre, dim=-1, eps=_LEAST_LENGTH)
        across = measure(units, units[:0], is_own)
        values = rest.new_zeros(len(rest))
        for label in all_labels.unique().tolist():
            members = all_labels == label
            known = self._remembered.get(label, units[:0].detach()).to(units.device)
            known = normalize(known - centre, dim=-1, eps=_LEAST_LENGTH)
            gain = measure(units[members], known, is_own[members])
            values = values.index_put((members.nonzero()[:, 0],), gain.expand(int(members.sum())))
        return (values + self.across * across)[is_own]

    def remember(self) -> None:
        """Note the batch of the last call: in the centre while that is open, and as each class's newest images."""
        if self._seen is None:
            return
        rest, labels = self._seen
        self._seen = None
        if self._num_batches < self.centre_batches:
            self._num_batches += 1
            self._centre = self._centre.to(rest.device)
            self._centre = self._centre + (rest.mean(dim=0) - self._centre) / self._num_batches
        for label in labels.unique().tolist() if self.memory else ():
            known = self._remembered.get(label, rest[:0])
            self._remembered[label] = torch.cat([known.to(rest.device), rest[labels == label]])[-self.memory :]

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`remember` has noted, the same on every process."""
        return {"centre": self._centre, "num_batches": self._num_batches, "remembered": dict(self._remembered)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._centre, self._num_batches = state["centre"], state["num_batches"]
        self._remembered = dict(state["remembered"])

    def _rest(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """``(B, F)``: unit features without their part along the class's own text."""
        along = self.directions.to(features.device)[labels]
        features = normalize(features.float(), dim=-1)
        return features - (features * along).sum(dim=-1, keepdim=True) * along

    def _whole_batch(
        self, rest: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What is left of all processes' features, this one's with their graph; their labels; which are this one's."""
        start = self._rank * len(labels)
        all_labels, joined = self._gather(labels), self._gather(rest.detach()).clone()
        is_own = torch.zeros_like(all_labels, dtype=torch.bool)
        is_own[start : start + len(labels)] = True
        joined[is_own] = rest
        return joined, all_labels, is_own

    def _gain(self, units: torch.Tensor, known: torch.Tensor, is_own: torch.Tensor) -> torch.Tensor:
        """The gain ``()`` in volume of ``known (M, F)`` by ``units (m, F)``; see the class.

        Its mean over the own images has, for each of them, the gradient that it has over all images on one process.
        """
        if len(units) == 0 or not is_own.any():
            return units.new_zeros(())
        alpha = units.shape[-1] / ((len(units) + len(known)) * self.noise)
        gain = _log_det(torch.cat([units, known]), alpha) - _log_det(known, alpha)
        gain = gain / (len(units) * math.log1p(alpha))
        share = len(units) / int(is_own.sum())
        return gain if share == 1 else gain.detach() + (gain - gain.detach()) * share

    def _losses(self, units: torch.Tensor, known: torch.Tensor, is_own: torch.Tensor) -> torch.Tensor:
        """What is lost ``(m,)`` without each of ``units (m, F)``, beside the others and ``known (M, F)``.

        Without its row and column a matrix has the determinant that it has with them, times that element of its
        inverse.
        """
        if len(units) == 0:
            return units.new_zeros(0)
        both = torch.cat([units, known])
        alpha = both.shape[-1] / (len(both) * self.noise)
        gram = torch.eye(len(both), device=both.device) + alpha * (both @ both.T)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        return -inverse.diagonal()[: len(units)].log() / math.log1p(alpha)


def _log_det(units: torch.Tensor, alpha: float) -> torch.Tensor:
    """log det(I + α U Uᵀ) of ``units (n, F)``, by Cholesky's factors, which need no pivots: the matrix is positive."""
    if len(units) == 0:
        return units.new_zeros(())
    gram = torch.eye(len(units), device=units.device) + alpha * (units @ units.T)
    return 2 * torch.linalg.cholesky(gram).diagonal().log().sum()

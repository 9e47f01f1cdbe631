"""The losses that segmenters are trained with, none of which learns from pixels that carry the ignore label.

Shapes: B images of H x W pixels, K classes, background included.
"""

from typing import Any

import torch
from torch.nn import functional
from transformers import Mask2FormerForUniversalSegmentation
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss, sample_point

from ubgen_pipeline.mask_settings import IGNORE_LABEL
from ubgen_pipeline.models.segmenter import Segmenter

AUXILIARY_WEIGHT = 0.4


def segmentation_loss(segmenter: Segmenter, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Scalar loss of ``images (B, 3, H, W)`` in [0, 1] under ``masks (B, H, W)`` int64.

    Cross-entropy over the pixels that are not ignored; a DeepLabV3's auxiliary head adds 0.4 of its own, as in its
    reference training (Zhao et al. 2017). Mask2Former has its set loss (Cheng et al. 2022, section 3.3).

    Raises:
        ValueError: masks of another size than the images.
    """
    if masks.shape != (len(images), *images.shape[-2:]):
        raise ValueError(f"masks has shape {tuple(masks.shape)} beside images of {tuple(images.shape)}; resize them.")
    if isinstance(segmenter.network, Mask2FormerForUniversalSegmentation):
        return _set_loss(segmenter, images, masks)
    output = segmenter(images)
    loss = _cross_entropy(segmenter.class_scores(output, masks.shape[-2:]), masks)
    if isinstance(output, dict) and "aux" in output:
        loss = loss + AUXILIARY_WEIGHT * _cross_entropy(
            segmenter.class_scores({"out": output["aux"]}, masks.shape[-2:]), masks
        )
    return loss


def _cross_entropy(scores: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    # the mean over no pixels would be NaN
    num_scored = (masks != IGNORE_LABEL).sum().clamp_min(1)
    return functional.cross_entropy(scores, masks, ignore_index=IGNORE_LABEL, reduction="sum") / num_scored


def _set_loss(segmenter: Segmenter, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    network: Any = segmenter.network
    if not isinstance(network.criterion, PartialMaskLoss):
        network.criterion = PartialMaskLoss(network.config, network.weight_dict).to(images.device)
    network.criterion.ignored = (masks == IGNORE_LABEL)[:, None].float()
    # an image that is ignored as a whole has no class, which the matcher takes
    classes = [mask[mask != IGNORE_LABEL].unique() for mask in masks]
    regions = [(mask[None] == present[:, None, None]).float() for mask, present in zip(masks, classes)]
    return network((images - segmenter.mean) / segmenter.std, mask_labels=regions, class_labels=classes).loss


class PartialMaskLoss(Mask2FormerLoss):
    """transformers' Mask2Former loss with the sampled points that fall on ignored pixels left out of both mask terms.

    ``ignored (B, 1, H, W)`` in {0, 1} is set before each call. The matcher still sees those pixels as belonging to no
    mask, which changes which query is matched at most, not what it learns.
    """

    ignored: torch.Tensor

    def loss_masks(
        self, masks_queries_logits: torch.Tensor, mask_labels: list[torch.Tensor], indices: Any, num_masks: Any
    ) -> dict[str, torch.Tensor]:
        """``loss_mask`` and ``loss_dice`` of the matched queries; arguments as in the base."""
        queries = self._get_predictions_permutation_indices(indices)
        predicted = masks_queries_logits[queries][:, None]
        target = self._pad_images_to_max_in_batch(mask_labels)[0][self._get_targets_permutation_indices(indices)]
        with torch.no_grad():
            # its annotations take whole numbers only, and the ratios are shares
            sample_points: Any = self.sample_points_using_uncertainty
            points = sample_points(
                predicted,
                self.calculate_uncertainty,
                self.num_points,
                self.oversample_ratio,
                self.importance_sample_ratio,
            )
            labels = sample_point(target[:, None], points, align_corners=False).squeeze(1)
            ignored = sample_point(self.ignored[queries[0]], points, mode="nearest", align_corners=False).squeeze(1)
            scored = 1 - ignored
        logits = sample_point(predicted, points, align_corners=False).squeeze(1)
        entropy = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none") * scored
        probabilities = logits.sigmoid() * scored
        overlap = (2 * probabilities * labels).sum(-1) + 1
        dice = 1 - overlap / (probabilities.sum(-1) + (labels * scored).sum(-1) + 1)
        return {
            "loss_mask": (entropy.sum(-1) / scored.sum(-1).clamp_min(1)).sum() / num_masks,
            "loss_dice": dice.sum() / num_masks,
        }

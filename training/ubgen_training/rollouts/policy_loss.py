"""The clipped objective of a policy gradient.

For a pair of a sample with advantage A and one of its steps, taken with probability p_old and now given p, the loss is
that of Black et al. 2023 (arXiv 2305.13301, section 4.3) with the clipping of Schulman et al. 2017 (arXiv 1707.06347,
Eq. 7):

    loss = - min(r A, clip(r, 1 - c, 1 + c) A) + w KL,    r = p / p_old

Shapes: B pairs.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PolicyLoss:
    """The scalar ``loss`` and, detached and per pair, the ``ratio (B,)`` and whether it was ``clipped (B,)``."""

    loss: torch.Tensor
    ratio: torch.Tensor
    clipped: torch.Tensor


def policy_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    *,
    clip_range: float,
    weights: torch.Tensor | None = None,
    kl: torch.Tensor | None = None,
    kl_weight: float = 0.0,
) -> PolicyLoss:
    """The mean loss of B pairs.

    Args:
        log_probs: ``(B,)`` of the steps under the weights being trained, with gradient.
        old_log_probs: ``(B,)`` of the same steps when they were taken.
        advantages: ``(B,)``.
        clip_range: c, above 0.
        weights: ``(B,)`` of the pairs, which multiply all of the loss but the KL; None is ones.
        kl: ``(B,)``, to the reference model; None leaves the term out.
        kl_weight: w.
    """
    ratio = torch.exp(log_probs - old_log_probs.detach())
    kept = ratio * advantages
    bounded = ratio.clamp(1 - clip_range, 1 + clip_range) * advantages
    losses = -torch.minimum(kept, bounded)
    loss = (losses if weights is None else losses * weights).mean()
    if kl is not None:
        loss = loss + kl_weight * kl.mean()
    return PolicyLoss(loss, ratio.detach(), (bounded < kept).detach())

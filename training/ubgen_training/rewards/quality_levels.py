"""The five words of a quality rating, and the number that a rating comes to (paper Eq. 10, 11)."""

import torch

from ubgen_pipeline.mini.judges import QUALITY_LEVELS


def quality_score(level_logits: torch.Tensor) -> torch.Tensor:
    """Q ``(B,)`` in [1, 5] of ``level_logits (B, 5)``, bad to excellent: sum of i p_i, p the softmax (Eq. 10, 11)."""
    levels = torch.arange(1, len(QUALITY_LEVELS) + 1, device=level_logits.device, dtype=level_logits.dtype)
    return (level_logits.softmax(dim=-1) * levels).sum(dim=-1)

"""The reward of image quality: a five-level rating made a number (paper Eq. 7, 10, 11)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from .quality_levels import quality_score
from .reward_functions import RewardFunction


class QualityReward:
    """Q / 5, in [0.2, 1]; L_q is one minus it (Eq. 7).

    Args:
        level_logits: images ``(B, 3, S, S)`` in [0, 1] to logits ``(B, 5)``; a module is frozen here.
        image_size: S, to which images are resized; None leaves them as they are.
    """

    __name__ = "quality"
    differentiable = True

    def __init__(self, level_logits: Callable[[torch.Tensor], torch.Tensor], image_size: int | None = None):
        if isinstance(level_logits, nn.Module):
            level_logits.eval().requires_grad_(False)
        self.level_logits = level_logits
        self.image_size = image_size

    def __call__(
        self, images: torch.Tensor, class_names: Sequence[str], labels: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Rewards ``(B,)`` of ``images (B, 3, H, W)`` nominally in [0, 1]."""
        images = images.float()
        if self.image_size is not None and images.shape[-2:] != (self.image_size, self.image_size):
            images = interpolate(images, (self.image_size, self.image_size), mode="bicubic", antialias=True)
        return quality_score(self.level_logits(images)) / 5

    def to(self, device: torch.device | str) -> "QualityReward":
        """Move the scorer, if it is a module; the reward itself is returned."""
        if isinstance(self.level_logits, nn.Module):
            self.level_logits.to(device)
        return self


def load_quality_reward(name: str, dtype: torch.dtype = torch.float32) -> RewardFunction:
    """The quality reward called ``name``.

    Args:
        name: ``mini``; Q-Align, as in :func:`ubgen_training.rewards.qalign.score.load_qalign`; or the Hub id, with
            ``@revision`` if need be, or folder of any other image-text-to-text model of transformers.
        dtype: of training. A language model is loaded in bfloat16 where it is a 16-bit one: float16 has too little
            range for the gradient through so many layers. Q-Align brings its gradient into range and, unless
            this is bfloat16, chooses by the device. The mini scorer is float32.

    Raises:
        ValueError: it is unknown, its weights are missing, or it cannot rate images in five levels.
    """
    from .qalign.checkpoint import is_qalign

    if name != "mini" and is_qalign(name):
        from .qalign.score import load_qalign

        return load_qalign(name, dtype=torch.bfloat16 if dtype == torch.bfloat16 else None)
    try:
        if name == "mini":
            return _mini_quality()
        return _language_model_quality(name, torch.float32 if dtype == torch.float32 else torch.bfloat16)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"quality_model {name!r} cannot be loaded ({first_line}); give 'mini', or the Hub id or folder of Q-Align "
            "or of another image-text-to-text model of transformers. Where the Hub cannot be reached, fetch the model "
            f"elsewhere, as with `hf download {name.partition('@')[0]}`, and give its folder."
        ) from error


def _mini_quality() -> QualityReward:
    from ubgen_pipeline.mini.judges import load_mini_quality

    return QualityReward(load_mini_quality(), image_size=64)


def _language_model_quality(name: str, dtype: torch.dtype) -> QualityReward:
    from .five_level_quality import load_five_level_quality

    return QualityReward(load_five_level_quality(name, dtype))

"""A reward less what it gives for other words (SRPO, arXiv 2509.06942, section 3.3): what both like earns nothing."""

import warnings
from collections.abc import Sequence
from typing import Any, Self

import torch

from .reward_functions import RewardFunction, compares_within_class, reads_whole_batch, reward_name

RELATIVE_PREFIX = "relative:"


class RelativeReward:
    """``reward(images, names) - reward(images, other words)``, of a reward that reads the names it is called with.

    Args:
        reward: one whose values depend on ``class_names``, such as a model of preferences; it remembers nothing.
        prompt: template of the other words, such as ``blurry photo of {name}``.
        setting: the one that holds ``prompt``, for errors.

    Raises:
        ValueError: a ``prompt`` without ``{name}``, or a reward that remembers images or gives a set's value.
    """

    def __init__(self, reward: RewardFunction, prompt: str | None, setting: str = "relative_prompt"):
        if prompt is None or "{name}" not in prompt:
            raise ValueError(f"{setting} is {prompt!r}; it must hold {{name}}, as in 'blurry photo of {{name}}'.")
        name = reward_name(reward)
        if hasattr(reward, "remember") or hasattr(reward, "marginal"):
            raise ValueError(
                f"reward {name!r} compares sets of images, so it is relative to them already; leave out"
                f" {RELATIVE_PREFIX!r}."
            )
        self.reward, self._prompt = reward, prompt
        self.__name__ = f"relative_{name}"
        self.differentiable = getattr(reward, "differentiable", True)
        self.reads_whole_batch = reads_whole_batch(reward)
        self.compares_within_class = compares_within_class(reward)

    def __call__(
        self, images: torch.Tensor, class_names: Sequence[str], labels: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """Differences ``(B,)`` for ``images (B, 3, H, W)`` of B names."""
        others = [self._prompt.replace("{name}", name) for name in class_names]
        return self.reward(images, class_names, labels, **kwargs) - self.reward(images, others, labels, **kwargs)

    def check_reads_names(self, values: torch.Tensor) -> None:
        """Tell by its values of images of noise whether the reward reads names at all.

        One without gradient, whose answers may be few, is only warned about.

        Raises:
            ValueError: a reward with gradient gives the same for both texts.
        """
        if values.any():
            return
        message = (
            f"reward {reward_name(self.reward)!r} gives the same for a class's name and for {self._prompt!r} on images"
            f" of noise, so nothing may be left of {RELATIVE_PREFIX!r} it; name a reward that reads class_names. For"
            " clip_alignment set clip_negative_prompt."
        )
        if self.differentiable:
            raise ValueError(message)
        warnings.warn(message, stacklevel=2)

    def to(self, device: torch.device | str) -> Self:
        """Move the reward; this is returned."""
        if hasattr(self.reward, "to"):
            self.reward.to(device)
        return self

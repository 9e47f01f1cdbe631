"""Metrics of the image-quality library pyiqa as rewards; an optional extra, ``pip install ubgen[iqa]``."""

from collections.abc import Sequence
from typing import Any

import torch


class PyiqaReward:
    """A metric that needs no reference image, with its sign turned where lower is better.

    Values keep the metric's own scale: choose ``reward_weights`` by it. Many metrics load weights that pyiqa
    downloads itself. A metric without gradient is named by the check that every reward's answer passes.

    Args:
        metric: pyiqa's name of it, such as ``musiq`` or ``clipiqa``.
        setting: the one that names it, for errors.

    Raises:
        ValueError: pyiqa is not installed or has no such metric, its weights cannot be fetched, or it compares with a
            reference.
    """

    differentiable = True

    def __init__(self, metric: str, setting: str = "reward_funcs"):
        try:
            import pyiqa  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError(
                f"{setting} holds 'pyiqa:{metric}', but pyiqa is not installed; pip install 'ubgen[iqa]'."
            ) from error
        if metric not in pyiqa.list_models():
            raise ValueError(
                f"{setting} holds 'pyiqa:{metric}', which this pyiqa does not have; choose from "
                f"{', '.join(pyiqa.list_models(metric_mode='NR'))}."
            )
        try:
            # as_loss makes pyiqa keep gradients and take images that are not clamped
            self.metric = pyiqa.create_metric(metric, as_loss=True, loss_reduction="none", device=torch.device("cpu"))
        except (OSError, RuntimeError, ImportError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{setting} holds 'pyiqa:{metric}', which pyiqa cannot build here ({first_line}); where its "
                "weights cannot be downloaded, put them into pyiqa's cache, or choose another metric."
            ) from error
        if self.metric.metric_mode != "NR":
            raise ValueError(
                f"{setting} holds 'pyiqa:{metric}', which compares an image with a reference; choose from "
                f"{', '.join(pyiqa.list_models(metric_mode='NR'))}."
            )
        self.metric.eval().requires_grad_(False)
        self.sign = -1 if self.metric.lower_better else 1
        self.__name__ = f"pyiqa_{metric}"

    def __call__(
        self, images: torch.Tensor, class_names: Sequence[str], labels: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Rewards ``(B,)`` of ``images (B, 3, H, W)`` nominally in [0, 1]; higher is better."""
        scores = self.metric(images.float())
        return self.sign * scores.reshape(len(images), -1).squeeze(-1)

    def to(self, device: torch.device | str) -> "PyiqaReward":
        """Move the metric; the reward itself is returned."""
        self.metric.to(device)
        return self

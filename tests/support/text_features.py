"""Bare text features, for tests that call a Stable Diffusion's UNet by themselves."""

from collections.abc import Sequence
from typing import Any

import torch


def text_features(pipeline: Any, prompts: Sequence[str]) -> torch.Tensor:
    """``(B, L, D)`` of B prompts."""
    return pipeline.batch(pipeline.encode(prompts))["encoder_hidden_states"]

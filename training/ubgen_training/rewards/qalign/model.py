"""mPLUG-Owl2, the model behind Q-Align (arXiv 2312.17090): an image and a text in, the next token's logits out.

Written anew for this project, so that the published weights need no code of their own and no old transformers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.functional import linear

from .language import AdaptiveLlama, KeyValue, LanguageSettings
from .vision import AbstractorSettings, VisionEncoder, VisionSettings, VisualAbstractor

MODEL_TYPE = "mplug_owl2"
Settings = TypeVar("Settings", VisionSettings, AbstractorSettings, LanguageSettings)

# values that this implementation takes for granted; a checkpoint that says otherwise is another model
_FIXED_LANGUAGE = {"hidden_act": "silu", "rope_scaling": None, "attention_bias": False, "tie_word_embeddings": False}
_FIXED_VISION = {"hidden_act": "quick_gelu", "num_channels": 3}


@dataclasses.dataclass(frozen=True)
class QAlignSettings:
    """Sizes of the three parts."""

    vision: VisionSettings
    abstractor: AbstractorSettings
    language: LanguageSettings

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "QAlignSettings":
        """Settings from a published ``config.json``; what it leaves out takes the published checkpoint's value.

        Raises:
            ValueError: it is another architecture, or a variant that this implementation does not cover.
        """
        if config.get("model_type") != MODEL_TYPE:
            raise ValueError(
                f"model_type is {config.get('model_type')!r}, not {MODEL_TYPE!r}: this is no Q-Align model."
            )
        visual_config = config.get("visual_config") or {}
        vision_config, abstractor_config = (
            visual_config.get(part) or {} for part in ("visual_model", "visual_abstractor")
        )
        settings = cls(
            _take(VisionSettings, vision_config, "visual_model"),
            _take(AbstractorSettings, abstractor_config, "visual_abstractor"),
            _take(LanguageSettings, config, "config.json"),
        )
        heads = settings.language.num_attention_heads
        # grouped key-value heads do not exist in this architecture
        _check_fixed(config, {**_FIXED_LANGUAGE, "num_key_value_heads": heads})
        _check_fixed(vision_config, _FIXED_VISION)
        # images and queries share one sequence of keys
        _check_fixed(abstractor_config, {"encoder_hidden_size": settings.abstractor.hidden_size})
        if settings.vision.hidden_size != settings.abstractor.hidden_size:
            raise ValueError(
                f"hidden_size is {settings.vision.hidden_size} in visual_model but {settings.abstractor.hidden_size} "
                "in visual_abstractor; they must be equal."
            )
        return settings


class QAlignModel(nn.Module):
    """Vision encoder, abstractor and language model; see the three modules' own files."""

    def __init__(self, settings: QAlignSettings):
        super().__init__()
        self.settings = settings
        num_tokens = settings.vision.num_tokens
        self.vision = VisionEncoder(settings.vision)
        self.abstractor = VisualAbstractor(settings.abstractor, num_tokens, settings.language.hidden_size)
        self.language = AdaptiveLlama(settings.language)

    def forward(
        self,
        pixels: torch.Tensor,
        prefix: list[KeyValue],
        suffix_ids: torch.Tensor,
        answer_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits of the token that follows prefix, image and suffix.

        Args:
            pixels: normalised, ``(B, 3, S, S)`` with S of the vision settings.
            prefix: of the text before the image, from ``language.read_prefix``.
            suffix_ids: ``(T,)`` tokens of the text after the image.
            answer_ids: ``(A,)`` tokens whose logits are wanted; None for the whole vocabulary.

        Returns:
            ``(B, A)``, differentiable in ``pixels``.
        """
        visual = self.abstractor(self.vision(pixels))
        text = self.language.token_embedding(suffix_ids).expand(len(pixels), -1, -1)
        state = self.language(torch.cat([visual, text], dim=1), visual.shape[1], prefix)
        weight = self.language.token_head.weight
        return linear(state, weight if answer_ids is None else weight[answer_ids])


def _take(settings_type: type[Settings], config: Mapping[str, Any], where: str) -> Settings:
    names = [field.name for field in dataclasses.fields(settings_type)]
    settings = settings_type(**{name: config[name] for name in names if config.get(name) is not None})
    if settings.hidden_size % settings.num_attention_heads:
        raise ValueError(
            f"hidden_size {settings.hidden_size} in {where} is no multiple of its num_attention_heads "
            f"{settings.num_attention_heads}."
        )
    return settings


def _check_fixed(config: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if config.get(name, value) not in (value, None):
            raise ValueError(f"{name} is {config[name]!r}; only {value!r} is known for {MODEL_TYPE} models.")

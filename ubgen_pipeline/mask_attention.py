"""How masks are made of a family's attention: what annotations ask, answered for UNets and for joint attention.

A family says which it has with :attr:`.Family.mask_attention`. Its answers begin with a class's words in a prompt and
end with :class:`.RecordedAttention`.

Shapes: B samples, K classes of a sample, L tokens of text, h x w latents.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from .attention_maps import AttentionRecorder, ClassTexts, RecordedAttention, check_levels, joined_texts
from .class_tokens import class_texts, class_token_weights, joint_token_weights
from .joint_attention import JointAttentionRecorder, check_layers
from .mask_settings import MaskSettings


class Recorder(Protocol):
    """Records while it is entered and the denoiser runs."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *_: object) -> None: ...
    def result(self) -> RecordedAttention:
        """What was recorded of B samples."""
        ...


class MaskAttention(Protocol):
    """The attention of one pipeline, as masks are made of it."""

    def check(self, settings: MaskSettings) -> None:
        """Raise ``ValueError`` for settings that do not go with this model."""
        ...

    def check_words(self, prompt: str, words: Sequence[str], settings: MaskSettings) -> None:
        """Raise ``ValueError`` where one of the class words is not where the settings need it; encodes nothing."""
        ...

    def texts(self, prompt: str, words: Sequence[str], settings: MaskSettings) -> Any:
        """Whose attention is recorded for one sample of K class words: what :meth:`recorder` takes."""
        ...

    def recorder(
        self, texts: Sequence[Any], latent_size: tuple[int, int], settings: MaskSettings, num_steps: int
    ) -> Recorder:
        """Records the attention of B samples.

        Args:
            texts: B, of :meth:`texts`.
            latent_size: (h, w).
            settings: which attention.
            num_steps: of the denoising.
        """
        ...


class UNetMaskAttention:
    """Cross- and self-attention of a UNet, by levels: see :mod:`.attention_maps`."""

    def __init__(self, pipeline: Any):
        self._pipeline = pipeline

    def check(self, settings: MaskSettings) -> None:
        check_levels(self._pipeline.denoiser_network, settings.cross_levels, settings.self_level)

    def check_words(self, prompt: str, words: Sequence[str], settings: MaskSettings) -> None:
        class_token_weights(self._pipeline, prompt, words, settings.class_prompt)

    def texts(self, prompt: str, words: Sequence[str], settings: MaskSettings) -> ClassTexts:
        return class_texts(self._pipeline, prompt, words, settings.class_prompt)

    def recorder(
        self, texts: Sequence[ClassTexts], latent_size: tuple[int, int], settings: MaskSettings, num_steps: int
    ) -> AttentionRecorder:
        return AttentionRecorder(
            self._pipeline.denoiser_network,
            joined_texts(texts),
            latent_size,
            cross_levels=settings.cross_levels,
            self_level=settings.self_level if settings.self_power else None,
            steps=settings.recorded_steps(num_steps),
        )


class JointMaskAttention:
    """Attention of text and image in one sequence, by blocks: see :mod:`.joint_attention`.

    Args:
        pipeline: whose family says where text lies (``text_position``).
        layers: modules that compute joint attention, one of each block, in order: what ``cross_levels`` and
            ``self_level`` of the settings count.
        latents_per_token: latents a side of an image token.
        readers: (tokenizer, tokens) of each text encoder whose tokens the denoiser reads, in the order in which they
            stand in the sequence.
        image_tokens_unit: the image's tokens are filled up to a multiple of this.
    """

    def __init__(
        self,
        pipeline: Any,
        layers: Sequence[nn.Module],
        *,
        latents_per_token: int,
        readers: Sequence[tuple[Any, int]],
        image_tokens_unit: int = 1,
    ):
        self._pipeline, self._layers = pipeline, layers
        self._latents_per_token, self._readers = latents_per_token, readers
        self._image_tokens_unit = image_tokens_unit

    def check(self, settings: MaskSettings) -> None:
        if settings.class_prompt:
            raise ValueError(
                "mask_settings.class_prompt is True, but this model reads text and image in one attention, which has"
                " no keys beside the prompt's own; give False (mask_class_prompt)."
            )
        refining = settings.self_level if settings.self_power else None
        check_layers(len(self._layers), settings.cross_levels, refining)

    def check_words(self, prompt: str, words: Sequence[str], settings: MaskSettings) -> None:
        self.texts(prompt, words, settings)

    def texts(self, prompt: str, words: Sequence[str], settings: MaskSettings) -> torch.Tensor:
        return joint_token_weights(self._readers, prompt, words)

    def recorder(
        self, texts: Sequence[torch.Tensor], latent_size: tuple[int, int], settings: MaskSettings, num_steps: int
    ) -> JointAttentionRecorder:
        height, width = (side // self._latents_per_token for side in latent_size)
        most = max(len(weights) for weights in texts)
        # samples of fewer classes get empty ones at the end
        weights = torch.stack([nn.functional.pad(weights, (0, 0, 0, most - len(weights))) for weights in texts])
        # a prompt's sequence may end behind its own text, and what fills the image up lies before text that is last
        num_read = int(weights.any(dim=(0, 1)).nonzero().max()) + 1
        filling = -(height * width) % self._image_tokens_unit if self._pipeline.text_position == "last" else 0
        return JointAttentionRecorder(
            self._pipeline.denoiser_network,
            self._layers,
            nn.functional.pad(weights[..., :num_read], (filling, 0)),
            (height, width),
            text_position=self._pipeline.text_position,
            class_layers=settings.cross_levels,
            refining_layer=settings.self_level,
            power=settings.self_power,
            steps=settings.recorded_steps(num_steps),
        )

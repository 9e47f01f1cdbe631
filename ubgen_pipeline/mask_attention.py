"""How masks are made of a family's attention: what annotations ask, answered for UNets and for joint attention.

A family says which it has with :attr:`.Family.mask_attention`. Its answers begin with a class's words in a prompt and
end with :class:`.RecordedAttention`.

Shapes: B samples, K classes of a sample, L tokens of text, h x w latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from .attention_maps import AttentionRecorder, ClassTexts, RecordedAttention, check_levels, joined_texts
from .class_tokens import class_texts, class_token_weights, joint_token_weights
from .concept_attention import ConceptAttentionRecorder, ConceptTexts, stacked_concepts
from .joint_attention import ClassPromptKeys, JointAttentionRecorder, check_layers
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


@dataclass(frozen=True)
class ClassPrompt:
    """A text of one sample's class words: ``features (L, D)``, and ``weights (K, L)`` of its tokens, which may be
    longer than the text."""

    features: torch.Tensor
    weights: torch.Tensor


class UNetMaskAttention:
    """Cross- and self-attention of a UNet, by levels: see :mod:`.attention_maps`."""

    def __init__(self, pipeline: Any):
        self._pipeline = pipeline

    def check(self, settings: MaskSettings) -> None:
        if settings.source != "attention":
            raise _no_concepts(self._pipeline)
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
    """Attention of a transformer whose blocks read text, by blocks: see :mod:`.joint_attention`.

    Args:
        pipeline: whose family says where text lies (``text_position``) and how large a token of the image is.
        layers: modules whose attention reads text, one of each block, in order: what ``cross_levels`` of the settings
            counts.
        readers: (tokenizer, tokens) of each text encoder whose tokens the denoiser reads, in the order in which they
            stand in the sequence.
        refining_layers: modules whose attention is among tokens of the image, one of each block, what ``self_level``
            counts; None: the same as ``layers``. Empty: there are none that masks could be refined with.
        image_tokens_unit: the image's tokens are filled up to a multiple of this.
        num_before: tokens that stand before the text.
        text_lengths: ``filled``: texts are filled up to one length. ``own``: the image's tokens follow on each text's
            own end. ``calls``: so they do, and the denoiser is called for each length of texts.
        concept_blocks: blocks with a stream of tokens for text and one for the image, in order, the first of those
            that ``cross_levels`` counts; empty: there are no concept tokens.
        text_embedding: modules that make what the blocks read of text features, one after another.
    """

    def __init__(
        self,
        pipeline: Any,
        layers: Sequence[nn.Module],
        *,
        readers: Sequence[tuple[Any, int]],
        refining_layers: Sequence[nn.Module] | None = None,
        image_tokens_unit: int = 1,
        num_before: int = 0,
        text_lengths: str = "filled",
        concept_blocks: Sequence[nn.Module] = (),
        text_embedding: Sequence[nn.Module] = (),
    ):
        self._pipeline, self.layers, self.readers = pipeline, layers, readers
        self._refining_layers = layers if refining_layers is None else refining_layers
        self.image_tokens_unit, self.num_before = image_tokens_unit, num_before
        self.text_lengths = text_lengths
        self.concept_blocks, self.text_embedding = concept_blocks, text_embedding

    def check(self, settings: MaskSettings) -> None:
        if settings.source == "concepts":
            if not self.concept_blocks:
                raise _no_concepts(self._pipeline)
            check_layers(len(self.concept_blocks), settings.cross_levels, None)
        if settings.class_prompt and not self._has_cross_attention:
            raise ValueError(
                "mask_settings.class_prompt is True, but this model's masks are made of the keys of the prompt that it"
                " draws from; give False (mask_class_prompt)."
            )
        if settings.self_power and not self._refining_layers:
            raise ValueError(
                f"mask_settings.self_power is {settings.self_power}, but this model has no attention among tokens of"
                " the image that could refine masks; give 0 (mask_self_power)."
            )
        check_layers(len(self.layers), settings.cross_levels, settings.self_level if settings.self_power else None)

    @property
    def _has_cross_attention(self) -> bool:
        """Whether text has attention of its own, so that its keys can be of another text than the prompt."""
        return self._pipeline.text_position is None

    def check_words(self, prompt: str, words: Sequence[str], settings: MaskSettings) -> None:
        if settings.source == "concepts":
            for word in words:
                joint_token_weights(self.readers, word, [word])
        else:
            joint_token_weights(self.readers, " ".join(words) if settings.class_prompt else prompt, words)

    def texts(self, prompt: str, words: Sequence[str], settings: MaskSettings) -> Any:
        """``(K, L)`` weights of the tokens, L being the text's own length where it decides where the image lies; or
        those with the class prompt's features; or the concepts, each of them encoded."""
        if settings.source == "concepts":
            return self._concepts(words, settings.background)
        if settings.class_prompt:
            text = " ".join(words)
            (row,) = self._pipeline.encode([text])
            return ClassPrompt(row["encoder_hidden_states"], joint_token_weights(self.readers, text, words))
        weights = joint_token_weights(self.readers, prompt, words)
        if self.text_lengths == "filled":
            return weights
        ((tokenizer, _),) = self.readers
        return weights[:, : len(tokenizer(prompt, return_offsets_mapping=True, verbose=False)["offset_mapping"])]

    def _concepts(self, words: Sequence[str], background: Sequence[str]) -> ConceptTexts:
        texts = [*words, *background]
        concepts = []
        for text, row in zip(texts, self._pipeline.encode(texts)):
            (weights,) = joint_token_weights(self.readers, text, [text])
            features, places = row["encoder_hidden_states"], weights.nonzero().flatten()
            concepts.append((features[places.to(features.device)], weights[places]))
        return stacked_concepts(concepts, num_background=len(background))

    def recorder(
        self,
        texts: Sequence[Any],
        latent_size: tuple[int, int],
        settings: MaskSettings,
        num_steps: int,
    ) -> Recorder:
        height, width = (side // self._pipeline.latents_per_token for side in latent_size)
        if settings.source == "concepts":
            word = settings.background[0]
            return ConceptAttentionRecorder(
                self._pipeline.denoiser_network,
                self.concept_blocks,
                self.text_embedding,
                texts,
                (height, width),
                text_position=self._pipeline.text_position,
                # of a word that is the same for all samples, so that none depends on the others
                first_place=int(joint_token_weights(self.readers, word, [word]).nonzero()[0, 1]),
                class_layers=settings.cross_levels,
                refining_layer=settings.self_level,
                power=settings.self_power,
                steps=settings.recorded_steps(num_steps),
                refining_layers=self._refining_layers,
            )
        class_prompt = None
        if settings.class_prompt:
            class_prompt = ClassPromptKeys([item.features for item in texts], self.text_embedding)
            texts = [item.weights for item in texts]
        most, longest = (max(weights.shape[axis] for weights in texts) for axis in (0, 1))
        # samples of fewer classes get empty ones at the end
        weights = torch.stack(
            [nn.functional.pad(weights, (0, longest - weights.shape[1], 0, most - len(weights))) for weights in texts]
        )
        # a prompt's sequence may end behind its own text, and what fills the image up lies before text that is last
        num_read = int(weights.any(dim=(0, 1)).nonzero().max()) + 1
        filling = -(height * width) % self.image_tokens_unit if self._pipeline.text_position == "last" else 0
        return JointAttentionRecorder(
            self._pipeline.denoiser_network,
            self.layers,
            nn.functional.pad(weights[..., :num_read], (self.num_before + filling, 0)),
            (height, width),
            text_position=self._pipeline.text_position,
            class_layers=settings.cross_levels,
            refining_layer=settings.self_level,
            power=settings.self_power,
            steps=settings.recorded_steps(num_steps),
            refining_layers=self._refining_layers,
            text_lengths=None if self.text_lengths == "filled" else [weights.shape[1] for weights in texts],
            has_calls_by_length=self.text_lengths == "calls",
            class_prompt=class_prompt,
        )


def _no_concepts(pipeline: Any) -> ValueError:
    return ValueError(
        f"mask_settings.source is 'concepts', but {type(pipeline).__name__} has no blocks with a stream of text beside"
        " one of the image; give 'attention' (mask_source)."
    )

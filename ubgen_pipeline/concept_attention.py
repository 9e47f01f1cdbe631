"""Class maps of a transformer with a stream of tokens for text and one for the image, by concept tokens
(ConceptAttention, arXiv 2502.04320).

A concept's tokens are encoded apart from the prompt. In each block they go the way of text beside the model's own
call: they attend to the image's keys of that call and to each other, and nothing attends to them. So images are those
drawn without recording. A pixel's score for a concept is the dot product of the two attentions' outputs, all heads
together (section 3.3), and softmax over the concepts makes shares of the scores. One of the concepts at least stands
for what belongs to no class.

The way of text is the block's own: it is called again with the concepts as its text and with one token of the image,
and its attention is answered by one over the keys of the whole image. That costs a few tokens a block.

Deviations from the paper: a concept has all its words' tokens, whose scores are averaged, and not the first alone; and
maps are refined by the attention among tokens of the image (see :mod:`.joint_attention`) where that is asked for.

Shapes: B samples, K classes of a sample, C concepts, those of the background after the classes', J tokens of a
concept, N = C J, D width of their features, S = h x w tokens of the image, T tokens of text and image, H heads, F
width of a head.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .attention_maps import RecordedAttention
from .joint_attention import AttentionTap, JointAttention, check_layers, refined


@dataclass(frozen=True)
class ConceptTexts:
    """The concepts of one sample.

    Attributes:
        features: ``(C, J, D)`` text features of their tokens, each concept encoded alone; zeros fill up.
        weights: ``(C, J)``, of a token's scores in those of its concept; rows sum to 1, what fills up has none.
        num_background: how many of the C, the last ones, are no classes.
    """

    features: torch.Tensor
    weights: torch.Tensor
    num_background: int


class ConceptAttentionRecorder:
    """Records while it is entered (``with``) and the transformer runs; call :meth:`result` afterwards.

    Under guidance the transformer's batch is 2B, unconditional half first: only the last B rows are recorded.

    Args:
        network: the transformer; its calls count as steps.
        blocks: its blocks with two streams, in order, whose ``attn`` is the joint attention. They are called with
            arguments by name and give (text, image).
        embedding: modules that make the first block's text of the text features, one after another.
        texts: B.
        image_size: (h, w) in tokens.
        text_position: ``first`` or ``last``, where text lies in the sequence.
        first_place: of the tokens of text: where a concept's first one stands, for rotary embeddings.
        class_layers: positions of the blocks whose maps are averaged.
        refining_layer: position among ``refining_layers`` of the one whose attention among image tokens refines them.
        power: how often; 0 leaves it out.
        steps: positions (from 0) of the network's calls to record; None records all.
        refining_layers: attention layers of all blocks; None: those of ``blocks``.

    Raises:
        ValueError: a block that is not there.
    """

    def __init__(
        self,
        network: nn.Module,
        blocks: Sequence[nn.Module],
        embedding: Sequence[nn.Module],
        texts: Sequence[ConceptTexts],
        image_size: tuple[int, int],
        *,
        text_position: str,
        first_place: int,
        class_layers: Collection[int],
        refining_layer: int,
        power: int = 0,
        steps: Collection[int] | None = None,
        refining_layers: Sequence[nn.Module] | None = None,
    ):
        check_layers(len(blocks), class_layers, None)
        layers = [_attention(block) for block in blocks] if refining_layers is None else refining_layers
        check_layers(len(layers), (), refining_layer if power else None)
        self._network, self._embedding, self._steps, self._power = network, embedding, steps, power
        self._blocks = list(blocks[: max(class_layers) + 1])
        self._class_blocks = {blocks[number] for number in class_layers}
        self._refining_layer = layers[refining_layer] if power else None
        self._image_size, self._text_position, self._first_place = image_size, text_position, first_place
        self._num_classes = max(len(item.weights) - item.num_background for item in texts)
        self._features, self._weights, self._is_there = _joined(texts, self._num_classes)
        self._num_steps, self._num_recorded = 0, 0
        self._is_on = False
        # of the step that runs: the concepts' tokens before the next block, the sum of the maps and what refines them
        self._tokens: torch.Tensor | None = None
        self._found: torch.Tensor | None = None
        self._refining: JointAttention | None = None
        # of the block that runs: keys, values and outputs of the image, and whether its concepts are what runs
        self._image: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self._is_concept_pass = False
        self._sum: torch.Tensor | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> "ConceptAttentionRecorder":
        self._handles = [
            self._network.register_forward_pre_hook(self._before_call),
            self._network.register_forward_hook(self._after_call),
        ]
        for block in self._blocks:
            tap = AttentionTap(partial(self._see, block))
            self._handles += tap.listen(_attention(block))
            self._handles.append(block.register_forward_hook(partial(self._after_block, tap), with_kwargs=True))
        if self._refining_layer is not None:
            self._handles += AttentionTap(self._see_refining).listen(self._refining_layer)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._is_on, self._is_concept_pass = [], False, False
        self._tokens = self._found = self._refining = self._image = None

    def result(self) -> RecordedAttention:
        """The class maps ``(B, K, h, w)``, refined already, so without a map of the self-attention.

        Raises:
            ValueError: nothing was recorded: ``steps`` names none that ran, or the attention goes another way.
        """
        if self._sum is None:
            raise ValueError(
                f"no joint attention was recorded in {self._num_steps} calls of {type(self._network).__name__}; choose"
                " steps that run, and have attention computed by torch (set_attention_backend('native')), uncompiled."
            )
        maps = (self._sum / self._num_recorded).mT.unflatten(2, self._image_size)
        return RecordedAttention({self._image_size: maps}, None, None)

    def _before_call(self, *_: object) -> None:
        self._is_on = self._steps is None or self._num_steps in self._steps
        self._num_steps += 1
        self._tokens = self._found = self._refining = self._image = None

    def _after_call(self, *_: object) -> None:
        if self._found is not None:
            with torch.no_grad():
                maps = self._found / len(self._class_blocks)
                if self._refining is not None:
                    maps = refined(self._refining, maps, self._power)
                self._sum = maps if self._sum is None else self._sum + maps
                self._num_recorded += 1
        self._is_on, self._found, self._refining = False, None, None

    def _image_rows(self, num_tokens: int) -> slice:
        num_image = self._image_size[0] * self._image_size[1]
        return slice(num_tokens - num_image, num_tokens) if self._text_position == "first" else slice(num_image)

    def _see(self, block: nn.Module, given: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
        if not self._is_on:
            return output
        if self._is_concept_pass:
            return self._answer(block, given, output)
        image, samples = self._image_rows(output.shape[-2]), slice(-len(self._weights), None)
        key, value, found = (part.detach()[samples][..., image, :] for part in (given["key"], given["value"], output))
        self._image = key, value, found
        return output

    def _see_refining(self, given: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
        if self._is_on:
            image = self._image_rows(output.shape[-2])
            attention = JointAttention.of_call(given).samples(slice(-len(self._weights), None))
            self._refining = attention.rows(image, image)
        return output

    def _after_block(
        self, tap: AttentionTap, block: nn.Module, _arguments: Any, named: dict[str, Any], _output: Any
    ) -> None:
        if not self._is_on or self._image is None:
            return
        with torch.no_grad():
            text, image = named["encoder_hidden_states"], named["hidden_states"]
            if self._tokens is None:
                tokens = self._features.to(text.device, text.dtype)
                for module in self._embedding:
                    tokens = module(tokens)
                self._tokens = tokens
            own = {name: _last_rows(value, len(self._weights)) for name, value in named.items()}
            # what fills prompts up is none of the concepts'
            own |= {name: None for name in named if name.endswith("mask")}
            own |= {"hidden_states": image[-len(self._weights) :, :1], "encoder_hidden_states": self._tokens}
            if named.get("image_rotary_emb") is not None:
                own["image_rotary_emb"] = self._rotary(named["image_rotary_emb"], text.shape[1])
            self._is_concept_pass = True
            try:
                with tap.alone():
                    # not as a module, whose hooks are those of the model's own call
                    self._tokens = block.forward(**own)[0]
            finally:
                self._is_concept_pass, self._image = False, None

    def _rotary(self, rotary: tuple[torch.Tensor, torch.Tensor], num_text: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The rotary embeddings of the concepts' tokens and of one of the image.

        A block takes either cosines and sines of all T tokens, or numbers of the image's and of the text's.
        """
        first, second = rotary
        num_concepts = self._weights.shape[1]
        num_tokens = self._features.shape[1] // num_concepts
        places = torch.arange(num_tokens, device=second.device) + self._first_place
        places = places.clamp(max=num_text - 1).repeat(num_concepts)
        if len(first) == self._image_size[0] * self._image_size[1]:
            return first[:1], second[places]
        cosines, sines = (torch.cat([part[places], part[num_text : num_text + 1]]) for part in (first, second))
        return cosines, sines

    def _answer(self, block: nn.Module, given: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
        """Attention of the concepts in place of that over one token of the image; and the maps from it."""
        assert self._image is not None
        keys, values, found = self._image
        concepts = slice(None, -1) if self._text_position == "first" else slice(1, None)
        query, key, value = (given[name][..., concepts, :] for name in ("query", "key", "value"))
        is_read = F.pad(self._is_there, (keys.shape[-2], 0), value=True).to(query.device)
        attended = F.scaled_dot_product_attention(
            query,
            torch.cat([keys, key], dim=-2),
            torch.cat([values, value], dim=-2),
            attn_mask=is_read[:, None, None],
            scale=given.get("scale"),
            enable_gqa=given.get("enable_gqa", False),
        )
        if block in self._class_blocks:
            maps = self._shares(found, attended)
            self._found = maps if self._found is None else self._found + maps
        answer = output.clone()
        answer[..., concepts, :] = attended
        return answer

    def _shares(self, image: torch.Tensor, concepts: torch.Tensor) -> torch.Tensor:
        """``(B, S, K)`` float32 of outputs ``(B, H, S, F)`` and ``(B, H, N, F)``."""
        weights = self._weights.to(image.device)
        # a concept's score is linear in its tokens' outputs
        means = weights @ concepts.float().transpose(1, 2).flatten(2)  # (B, C, H F)
        scores = image.float().transpose(1, 2).flatten(2) @ means.mT
        is_there = weights.any(dim=2)[:, None]
        return scores.masked_fill(~is_there, float("-inf")).softmax(dim=2)[..., : self._num_classes]


def stacked_concepts(concepts: Sequence[tuple[torch.Tensor, torch.Tensor]], *, num_background: int) -> ConceptTexts:
    """Those of one sample from each concept's ``(tokens, D)`` features and ``(tokens,)`` weights."""
    most = max(len(weights) for _, weights in concepts)
    return ConceptTexts(
        torch.stack([F.pad(features, (0, 0, 0, most - len(features))) for features, _ in concepts]),
        torch.stack([F.pad(weights, (0, most - len(weights))) for _, weights in concepts]),
        num_background,
    )


def _joined(texts: Sequence[ConceptTexts], most_classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of B samples: features ``(B, N, D)``, weights ``(B, C, N)``, and which tokens are there ``(B, N)``. Samples of
    fewer classes get empty ones behind their own."""
    num_tokens = max(item.weights.shape[1] for item in texts)
    features, weights = [], []
    for item in texts:
        num_classes = len(item.weights) - item.num_background
        filling = (0, num_tokens - item.weights.shape[1], 0, most_classes - num_classes)
        for kept, part, each in ((weights, item.weights, filling), (features, item.features, (0, 0, *filling))):
            background = (*each[:-2], 0, 0)
            kept.append(torch.cat([F.pad(part[:num_classes], each), F.pad(part[num_classes:], background)]))
    by_token = torch.stack(weights)  # (B, C, J)
    # each row of the matrix has its own concept's tokens alone
    own = torch.eye(by_token.shape[1])[:, :, None]
    return torch.stack(features).flatten(1, 2), (own * by_token[:, None]).flatten(2), by_token.flatten(1) > 0


def _attention(block: nn.Module) -> nn.Module:
    layer = block.attn
    assert isinstance(layer, nn.Module)
    return layer


def _last_rows(value: Any, num_samples: int) -> Any:
    """Of tensors the last rows; one row that is shared by all stays."""
    if isinstance(value, torch.Tensor):
        return value[-num_samples:]
    return value

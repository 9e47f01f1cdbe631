"""Records how a transformer's image tokens attend to text while it denoises: in joint attention, of text and image in
one sequence (MM-DiT and kin), or in cross-attention, whose keys are the text alone.

The recorder listens to ``scaled_dot_product_attention`` inside the blocks that it is asked for. There queries and keys
have their norms and rotary embedding already, whatever the family, and the output goes on as it is: images are those
drawn without recording.

Maps are made by attention calls with other values, so no S x S array is ever held:

- with each token's weight for a class as the value of its key, the output is the class's share of the attention,
  over all keys of the model's own softmax;
- with the class maps as the values of the image's keys, the output is A m, their refinement (Dataset Diffusion, arXiv
  2309.14303, Eq. 6), A being the attention among image tokens, whose rows sum to 1.

Deviation from the paper: A is that of one block, and maps are refined step by step and then averaged, where the paper
averages A over steps and blocks first.

Shapes: B samples, K classes of a sample, S = h x w tokens of the image, L of the text, T = S + L, H heads, F width of
a head.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from .attention_maps import RecordedAttention


@dataclass(frozen=True)
class JointAttention:
    """One call of ``scaled_dot_product_attention``, of the samples that are recorded.

    Attributes:
        query, key: ``(B, H, T, F)``.
        mask: broadcastable to ``(B, H, T, T)``, added to the scores, or bool with True for what is read; or None.
        scale: of the scores; None is 1 / sqrt(F).
    """

    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    scale: float | None

    @classmethod
    def of_call(cls, given: dict[str, Any]) -> "JointAttention":
        """That of a call with these arguments, outside the graph of gradients."""
        query, key = given["query"].detach(), given["key"].detach()
        return cls(query, _as_many_heads(key, query.shape[1]), given.get("attn_mask"), given.get("scale"))

    def samples(self, index: Any) -> "JointAttention":
        """The same attention of some of the samples."""
        mask = self.mask
        if mask is not None and len(mask) > 1:
            mask = mask[index]
        return JointAttention(self.query[index], self.key[index], mask, self.scale)

    def rows(self, queries: slice, keys: slice) -> "JointAttention":
        """The same attention of some of the queries, over some of the keys."""
        mask = self.mask
        if mask is not None:
            # an axis of 1 is shared by all
            mask = mask[
                ..., queries if mask.shape[-2] > 1 else slice(None), keys if mask.shape[-1] > 1 else slice(None)
            ]
        return JointAttention(self.query[..., queries, :], self.key[..., keys, :], mask, self.scale)

    def over(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over heads of softmax(Q K^T) V, ``(B, queries, K)`` float32, of values ``(B, keys, K)`` float32."""
        width, num_classes = self.query.shape[-1], values.shape[-1]
        # kernels that hold no S x S array want values as wide as queries
        padded = F.pad(values, (0, -num_classes % width)).to(self.query.dtype)
        means = [
            F.scaled_dot_product_attention(
                self.query,
                self.key,
                part[:, None].expand(-1, self.query.shape[1], -1, -1),
                attn_mask=self.mask,
                scale=self.scale,
            ).mean(dim=1, dtype=torch.float32)
            for part in padded.split(width, dim=-1)
        ]
        return torch.cat(means, dim=-1)[..., :num_classes]


class ClassPromptKeys:
    """Keys of cross-attention from a text of the class words alone, in place of the prompt's (class-prompt
    cross-attention; Dataset Diffusion, section 3.2), of layers whose keys are the text alone.

    Args:
        features: B times ``(L, D)`` text features, each of its own length.
        embedding: modules that make what the layers read of the text features, one after another.
    """

    def __init__(self, features: Sequence[torch.Tensor], embedding: Sequence[nn.Module]):
        longest = max(len(item) for item in features)
        self._features = torch.stack([F.pad(item, (0, 0, 0, longest - len(item))) for item in features])
        lengths = torch.tensor([len(item) for item in features])
        self._is_read = (torch.arange(longest) < lengths[:, None])[:, None, None]  # (B, 1, 1, L)
        self._embedding, self._keys = embedding, {}

    def attention(self, layer: nn.Module, attention: JointAttention) -> JointAttention:
        """The same queries over the keys of the class words."""
        query = attention.query
        if layer not in self._keys:
            # as the layer itself makes them of a text; they do not change between steps
            text = self._features.to(query.device, query.dtype)
            for module in self._embedding:
                text = module(text)
            with AttentionTap(partial(self._keep, layer)):
                width: Any = layer.query_dim
                layer.forward(text.new_zeros(len(text), 1, width), encoder_hidden_states=text)
        mask = self._is_read.to(query.device)
        return JointAttention(query, self._keys[layer], None if mask.all() else mask, attention.scale)

    def _keep(self, layer: nn.Module, given: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
        self._keys[layer] = JointAttention.of_call(given).key
        return output


class JointAttentionRecorder:
    """Records while it is entered (``with``) and the transformer runs; call :meth:`result` afterwards.

    Under guidance the transformer's batch is 2B, unconditional half first: only the last B rows are recorded.

    Args:
        network: the transformer; its calls count as steps, but see ``has_calls_by_length``.
        layers: modules of the blocks whose attention reads text, in order.
        token_weights: ``(B, K, L)``; a class's map is the sum of its tokens' probabilities times these. L may be
            short of the text's length: what is left out has no weight.
        image_size: (h, w) in tokens.
        text_position: ``first`` or ``last``, where text lies in the sequence; None: in none with the image, so the
            keys are the text alone.
        class_layers: positions of the layers whose class maps are averaged.
        refining_layer: position of the layer whose attention among image tokens refines them.
        power: how often; 0 leaves it out.
        steps: positions (from 0) of the network's calls to record; None records all.
        refining_layers: modules whose attention is among image tokens, in order; None: the same as ``layers``.
        text_lengths: B, tokens of each sample's text, where the image's tokens follow on each text's own end; None:
            texts were filled up to one length.
        class_prompt: keys whose texts ``token_weights`` are of, in place of those of the prompts; only where
            ``text_position`` is None.
        has_calls_by_length: the network is called once for all samples whose texts have one length, in each step.

    Raises:
        ValueError: a layer that is not there.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[nn.Module],
        token_weights: torch.Tensor,
        image_size: tuple[int, int],
        *,
        text_position: str | None,
        class_layers: Collection[int],
        refining_layer: int,
        power: int = 0,
        steps: Collection[int] | None = None,
        refining_layers: Sequence[nn.Module] | None = None,
        text_lengths: Sequence[int] | None = None,
        has_calls_by_length: bool = False,
        class_prompt: ClassPromptKeys | None = None,
    ):
        check_layers(len(layers), class_layers, refining_layer if power else None)
        self._network, self._weights, self._steps, self._power = network, token_weights, steps, power
        self._image_size, self._text_position = image_size, text_position
        self._text_lengths, self._has_calls_by_length = text_lengths, has_calls_by_length
        self._class_prompt = class_prompt
        self._class_layers = {layers[number] for number in class_layers}
        refining_layer_of = layers if refining_layers is None else refining_layers
        self._refining_layer = refining_layer_of[refining_layer] if power else None
        self._num_steps, self._num_recorded = 0, 0
        # of the step that runs: whether it is recorded, and counted, and the lengths of text that its calls had
        self._is_on = self._is_counted = False
        self._seen_lengths: set[int] = set()
        # of the call that runs, for each part of the batch: its samples, the sum of its maps and of how many layers
        self._found: dict[tuple[int, ...], tuple[torch.Tensor, int]] = {}
        self._refining: dict[tuple[int, ...], JointAttention] = {}
        self._sum: torch.Tensor | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> "JointAttentionRecorder":
        self._handles = [
            self._network.register_forward_pre_hook(self._before_call, with_kwargs=True),
            self._network.register_forward_hook(self._after_call),
        ]
        for layer in {*self._class_layers, *([] if self._refining_layer is None else [self._refining_layer])}:
            self._handles += AttentionTap(partial(self._see, layer)).listen(layer)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._found, self._refining = [], {}, {}

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

    def _see(self, layer: nn.Module, given: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
        self.record(layer, JointAttention.of_call(given))
        return output

    def record(self, layer: nn.Module, attention: JointAttention) -> None:
        """Take what a layer computes, of the whole batch; calls over other sequences are let go by."""
        num_keys, num_image = attention.key.shape[-2], self._image_size[0] * self._image_size[1]
        if not self._is_on:
            return
        query = attention.query
        with torch.no_grad():
            if self._text_position is not None:
                num_read = self._weights.shape[-1] if self._text_lengths is None else min(self._text_lengths)
                if query.shape[-2] == num_keys and num_keys - num_image >= num_read:
                    for samples, part, num_text in self._parts(attention, num_keys - num_image):
                        image = slice(num_text, num_text + num_image)
                        self._take(layer, samples, part, slice(num_image) if num_text == 0 else image, num_image)
            elif query.shape[-2] == num_image and (
                layer is self._refining_layer or self._class_prompt or num_keys >= self._weights.shape[-1]
            ):
                samples = tuple(range(len(self._weights)))
                self._take(layer, samples, attention.samples(slice(-len(samples), None)), slice(num_image), num_image)

    def _parts(
        self, attention: JointAttention, num_text: int
    ) -> Iterator[tuple[tuple[int, ...], JointAttention, int]]:
        """Samples whose image begins at the same place, their attention, and that place."""
        everyone = tuple(range(len(self._weights)))
        if self._text_lengths is None:
            begin = num_text if self._text_position == "first" else 0
            yield everyone, attention.samples(slice(-len(everyone), None)), begin
        elif self._has_calls_by_length:
            samples = tuple(sample for sample in everyone if self._text_lengths[sample] == num_text)
            if samples:
                yield samples, attention.samples(slice(-len(samples), None)), num_text
        else:
            first = len(attention.query) - len(everyone)
            for length in dict.fromkeys(self._text_lengths):
                samples = tuple(sample for sample in everyone if self._text_lengths[sample] == length)
                yield samples, attention.samples([first + sample for sample in samples]), length

    def _take(
        self, layer: nn.Module, samples: tuple[int, ...], attention: JointAttention, image: slice, num_image: int
    ) -> None:
        """What a layer computes of some samples, whose image lies at those of its queries."""
        if layer in self._class_layers:
            read = self._class_prompt.attention(layer, attention) if self._class_prompt else attention
            num_keys = read.key.shape[-2]
            # times T, so that what 16 bits hold is near 1
            values = self._values(samples, num_keys, num_image, attention.query.device) * num_keys
            maps = read.rows(image, slice(None)).over(values) / num_keys
            total, num_seen = self._found.get(samples, (0, 0))
            self._found[samples] = total + maps, num_seen + 1
        if layer is self._refining_layer:
            self._refining[samples] = attention.rows(image, image)

    def _values(self, samples: tuple[int, ...], num_keys: int, num_image: int, device: torch.device) -> torch.Tensor:
        """``(B, keys, K)``: the weights at the places of their tokens, nothing at others."""
        weights = self._weights[list(samples)].to(device, torch.float32)
        before = num_image if self._text_position == "last" else 0
        # texts of one length may be shorter than others', whose words then lie beyond
        return F.pad(weights, (before, num_keys - before - weights.shape[-1])).mT

    def _before_call(self, _module: object, arguments: Any, named: Any) -> None:
        self._found, self._refining = {}, {}
        if self._has_calls_by_length:
            text = named["encoder_hidden_states"] if "encoder_hidden_states" in named else arguments[1]
            length = text.shape[1]
            # each length comes once in a step
            is_new = not self._num_steps or length in self._seen_lengths
            self._seen_lengths = {length} if is_new else {*self._seen_lengths, length}
        else:
            is_new = True
        if is_new:
            self._is_on = self._steps is None or self._num_steps in self._steps
            self._num_steps += 1
            self._is_counted = False

    def _after_call(self, *_: object) -> None:
        if self._found and not self._is_counted:
            self._num_recorded += 1
            self._is_counted = True
        with torch.no_grad():
            for samples, (total, num_seen) in self._found.items():
                maps = total / num_seen  # (B, S, K)
                if samples in self._refining:
                    maps = refined(self._refining[samples], maps, self._power)
                if self._sum is None:
                    self._sum = maps.new_zeros(len(self._weights), *maps.shape[1:])
                self._sum[list(samples)] += maps
        self._found, self._refining = {}, {}
        self._is_on = self._is_on and self._has_calls_by_length


def check_layers(num_layers: int, class_layers: Collection[int], refining_layer: int | None) -> None:
    """Raise ``ValueError`` for a layer beyond those that a model has."""
    for name, numbers in (
        ("cross_levels", class_layers),
        ("self_level", [] if refining_layer is None else [refining_layer]),
    ):
        for number in numbers:
            if not 0 <= number < num_layers:
                raise ValueError(
                    f"{name} of the mask settings holds {number}; this model's blocks are 0 to {num_layers - 1}."
                )


class AttentionTap(TorchFunctionMode):
    """Shows the attention that one layer computes; open from the layer's begin to its end.

    Args:
        see: called with the arguments of ``scaled_dot_product_attention`` by name, and its output; what it returns
            takes the output's place.
    """

    # the one tap that opens while a recorder calls a layer itself
    _alone: "AttentionTap | None" = None

    def __init__(self, see: Callable[[dict[str, Any], torch.Tensor], torch.Tensor]):
        super().__init__()
        self._see = see
        self._is_open = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside the ``with`` no other tap opens: what runs there is none of the model's own calls."""
        AttentionTap._alone = self
        try:
            yield
        finally:
            AttentionTap._alone = None

    def open(self, *_: object) -> None:
        if AttentionTap._alone not in (None, self):
            return
        self.__enter__()
        self._is_open = True

    def close(self, *_: object) -> None:
        if self._is_open:
            self._is_open = False
            self.__exit__(None, None, None)

    def listen(self, layer: nn.Module) -> list[Any]:
        """Handles of the hooks on the layer that open and close this."""
        # after an error, too, so that nothing stays open
        return [
            layer.register_forward_pre_hook(self.open),
            layer.register_forward_hook(self.close, always_call=True),
        ]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            # torch's order
            return self._see({**dict(zip(("query", "key", "value", "attn_mask"), args)), **kwargs}, output)
        return output


def refined(attention: JointAttention, maps: torch.Tensor, power: int) -> torch.Tensor:
    """A^power m ``(B, S, K)`` of maps of that shape, none of them zero."""
    # as deviations from the mean, which passes through since rows of A sum to 1: 16 bits keep their digits
    mean = maps.mean(dim=1, keepdim=True)
    deviations = maps / mean.clamp(min=1e-30) - 1
    for _ in range(power):
        deviations = attention.over(deviations)
    return mean * (1 + deviations)


def _as_many_heads(key: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Keys ``(B, H, T, F)`` where several heads of queries share one of keys."""
    return key if key.shape[1] == num_heads else key.repeat_interleave(num_heads // key.shape[1], dim=1)

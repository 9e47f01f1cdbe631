"""Records joint attention, of text and image tokens in one sequence, while a transformer denoises (MM-DiT and kin).

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

from collections.abc import Collection, Sequence
from dataclasses import dataclass
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


class JointAttentionRecorder:
    """Records while it is entered (``with``) and the transformer runs; call :meth:`result` afterwards.

    Under guidance the transformer's batch is 2B, unconditional half first: only the last B rows are recorded.

    Args:
        network: the transformer; its calls count as steps.
        layers: modules of the blocks with joint attention, in order.
        token_weights: ``(B, K, L)``; a class's map is the sum of its tokens' probabilities times these. L may be
            short of the text's length: what is left out has no weight.
        image_size: (h, w) in tokens.
        text_position: ``first`` or ``last``, where text lies in the sequence.
        class_layers: positions of the layers whose class maps are averaged.
        refining_layer: position of the layer whose attention among image tokens refines them.
        power: how often; 0 leaves it out.
        steps: positions (from 0) of the network's calls to record; None records all.

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
        text_position: str,
        class_layers: Collection[int],
        refining_layer: int,
        power: int = 0,
        steps: Collection[int] | None = None,
    ):
        check_layers(len(layers), class_layers, refining_layer if power else None)
        self._network, self._weights, self._steps, self._power = network, token_weights, steps, power
        self._image_size, self._text_first = image_size, text_position == "first"
        self._class_layers, self._refining_layer = tuple(class_layers), refining_layer
        wanted = {*class_layers, *([refining_layer] if power else [])}
        self._layers = {number: layers[number] for number in wanted}
        self._num_calls = 0
        self._is_on = False
        # of the call that runs: sum of the layers' maps, how many were seen, and what refines them
        self._maps: torch.Tensor | None = None
        self._num_seen = 0
        self._refining: JointAttention | None = None
        self._sum: torch.Tensor | None = None
        self._num_recorded = 0
        self._handles: list[Any] = []

    def __enter__(self) -> "JointAttentionRecorder":
        self._handles = [
            self._network.register_forward_pre_hook(self._before_call),
            self._network.register_forward_hook(self._after_call),
        ]
        for number, layer in self._layers.items():
            tap = _Tap(self, number)
            self._handles.append(layer.register_forward_pre_hook(tap.open))
            # after an error, too, so that nothing stays open
            self._handles.append(layer.register_forward_hook(tap.close, always_call=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._maps, self._refining = [], None, None

    def result(self) -> RecordedAttention:
        """The class maps ``(B, K, h, w)``, refined already, so without a map of the self-attention.

        Raises:
            ValueError: nothing was recorded: ``steps`` names none that ran, or the attention goes another way.
        """
        if self._sum is None:
            raise ValueError(
                f"no joint attention was recorded in {self._num_calls} calls of {type(self._network).__name__}; choose"
                " steps that run, and have attention computed by torch (set_attention_backend('native')), uncompiled."
            )
        maps = (self._sum / self._num_recorded).mT.unflatten(2, self._image_size)
        return RecordedAttention({self._image_size: maps}, None, None)

    def record(self, number: int, attention: JointAttention) -> None:
        """Take what a layer computes, of the whole batch; calls over other sequences are let go by."""
        num_tokens, num_image = attention.key.shape[-2], self._image_size[0] * self._image_size[1]
        num_text = num_tokens - num_image
        if not self._is_on or attention.query.shape[-2] != num_tokens or num_text < self._weights.shape[-1]:
            return
        with torch.no_grad():
            num_samples = len(self._weights)
            image = slice(num_text, None) if self._text_first else slice(num_image)
            attention = JointAttention(
                attention.query[-num_samples:].detach(),
                _as_many_heads(attention.key[-num_samples:].detach(), attention.query.shape[1]),
                attention.mask
                if attention.mask is None or len(attention.mask) == 1
                else attention.mask[-num_samples:],
                attention.scale,
            )
            if number in self._class_layers:
                # times T, so that what 16 bits hold is near 1
                values = self._values(num_text, num_image, attention.query.device) * num_tokens
                maps = attention.rows(image, slice(None)).over(values) / num_tokens
                self._maps = maps if self._maps is None else self._maps + maps
                self._num_seen += 1
            if self._power and number == self._refining_layer:
                self._refining = attention.rows(image, image)

    def _values(self, num_text: int, num_image: int, device: torch.device) -> torch.Tensor:
        """``(B, T, K)``: the weights at the places of their tokens, nothing at the image's."""
        weights = self._weights.to(device, torch.float32)
        weights = F.pad(weights, (0, num_text - weights.shape[-1]))
        return F.pad(weights, (0, num_image) if self._text_first else (num_image, 0)).mT

    def _before_call(self, *_: object) -> None:
        self._maps, self._num_seen, self._refining = None, 0, None
        self._is_on = self._steps is None or self._num_calls in self._steps
        self._num_calls += 1

    def _after_call(self, *_: object) -> None:
        if self._maps is not None:
            with torch.no_grad():
                maps = self._maps / self._num_seen  # (B, S, K)
                if self._refining is not None:
                    maps = _refined(self._refining, maps, self._power)
                self._sum = maps if self._sum is None else self._sum + maps
                self._num_recorded += 1
        self._refining, self._is_on = None, False


def check_layers(num_layers: int, class_layers: Collection[int], refining_layer: int | None) -> None:
    """Raise ``ValueError`` for a layer beyond those that a model has."""
    for name, numbers in (
        ("cross_levels", class_layers),
        ("self_level", [] if refining_layer is None else [refining_layer]),
    ):
        for number in numbers:
            if not 0 <= number < num_layers:
                raise ValueError(
                    f"{name} of the mask settings holds {number}; this model's blocks of joint attention are 0 to"
                    f" {num_layers - 1}."
                )


class _Tap(TorchFunctionMode):
    """Shows a recorder the attention that one layer computes; open from the layer's begin to its end."""

    def __init__(self, recorder: JointAttentionRecorder, number: int):
        super().__init__()
        self._recorder, self._number = recorder, number
        self._is_open = False

    def open(self, *_: object) -> None:
        self.__enter__()
        self._is_open = True

    def close(self, *_: object) -> None:
        if self._is_open:
            self._is_open = False
            self.__exit__(None, None, None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            # torch's order: query, key, value, attn_mask
            given = {**dict(zip(("query", "key", "value", "attn_mask"), args)), **kwargs}
            seen = JointAttention(given["query"], given["key"], given.get("attn_mask"), given.get("scale"))
            self._recorder.record(self._number, seen)
        return output


def _refined(attention: JointAttention, maps: torch.Tensor, power: int) -> torch.Tensor:
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

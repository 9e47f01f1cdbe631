"""Records attention while a UNet denoises: a batch at once, summed in place, beside the model's own attention.

The recorder listens to the query and key projections and computes the probabilities it is asked for itself. The
attention processors stay what they are, so images are those drawn without recording, a LoRA's share is in the maps,
and everything else runs on fused attention. Memory does not depend on the number of steps.

Shapes: B samples, R class texts (at least one per sample), K classes of a sample, L tokens, D width of the text
features, S = h x w positions of a map, H heads, F width of a head.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention


@dataclass(frozen=True)
class ClassTexts:
    """Whose attention is recorded.

    Attributes:
        embeds: ``(R, L, D)`` text features that give the keys. Features of the class prompt rather than those that
            steer the image make it class-prompt cross-attention (Dataset Diffusion, section 3.2).
        samples: ``(R,)`` int64, the sample in the batch that each text belongs to.
        token_weights: ``(R, K, L)``; a class's map is the sum of its tokens' probabilities times these. Rows of
            classes that a text does not name are zero.
    """

    embeds: torch.Tensor
    samples: torch.Tensor
    token_weights: torch.Tensor


@dataclass(frozen=True)
class RecordedAttention:
    """Attention averaged over steps, layers and heads.

    Attributes:
        cross_maps: for each size (h, w), ``(B, K, h, w)`` float32 in [0, 1].
        self_map: ``(B, S, S)`` float32, rows sum to 1; None where none was asked for.
        self_size: (h, w) of its S positions.
    """

    cross_maps: dict[tuple[int, int], torch.Tensor]
    self_map: torch.Tensor | None
    self_size: tuple[int, int] | None


class AttentionRecorder:
    """Records while it is entered (``with``) and the UNet runs; call :meth:`result` afterwards.

    Under guidance the UNet's batch is 2B, unconditional half first: only the last B rows are recorded. The model's
    calls count as steps: a scheduler that calls it more often has more.

    Args:
        unet: a diffusers UNet with ``Attention`` layers (Stable Diffusion 1.x, 2.x).
        texts: the classes whose maps are wanted; ``samples`` decides B.
        latent_size: (h, w) of the latents.
        cross_levels: which maps of the classes: level i is where the latents were halved i times.
        self_level: the level of the self-attention map; None records none.
        steps: positions (from 0) of the UNet calls to record; None records all.

    Raises:
        ValueError: a level where the UNet has no attention of that kind.
    """

    def __init__(
        self,
        unet: torch.nn.Module,
        texts: ClassTexts,
        latent_size: tuple[int, int],
        *,
        cross_levels: Collection[int],
        self_level: int | None,
        steps: Collection[int] | None = None,
    ):
        self._unet, self._texts, self._steps = unet, texts, steps
        self._num_samples = int(texts.samples.max()) + 1
        self._cross_sizes = {level: _size_at(latent_size, level) for level in cross_levels}
        self._self_size = None if self_level is None else _size_at(latent_size, self_level)
        self._cross_levels, self._self_level = tuple(cross_levels), self_level
        self._layers = _layers_by_level(unet)
        check_levels(unet, cross_levels, self_level)
        self._cross_sums: dict[int, torch.Tensor] = {}
        self._self_sum: torch.Tensor | None = None
        self._num_calls = 0
        self._is_on = False
        self._queries: dict[Attention, torch.Tensor] = {}
        self._class_keys: dict[Attention, torch.Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> "AttentionRecorder":
        self._handles = [self._unet.register_forward_pre_hook(self._before_call)]
        for level in self._cross_levels:
            for layer in self._layers["cross"][level]:
                self._handles.append(_projection(layer, "to_q").register_forward_hook(self._cross_hook(layer, level)))
        if self._self_level is not None:
            for layer in self._layers["self"][self._self_level]:
                self._handles.append(_projection(layer, "to_q").register_forward_hook(self._query_hook(layer)))
                self._handles.append(_projection(layer, "to_k").register_forward_hook(self._self_hook(layer)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._queries.clear()
        self._class_keys.clear()

    def result(self) -> RecordedAttention:
        """What was recorded.

        Raises:
            ValueError: nothing was: ``steps`` names none that ran, or the projections were fused.
        """
        if not self._cross_sums and self._self_sum is None:
            raise ValueError(
                f"no attention was recorded in {self._num_calls} calls of the UNet; choose steps that run, and do not"
                " fuse the projections (unet.unfuse_qkv_projections())."
            )
        num_steps = len([step for step in range(self._num_calls) if self._steps is None or step in self._steps])
        cross_maps = {}
        for level, total in self._cross_sums.items():
            mean = total / (num_steps * sum(layer.heads for layer in self._layers["cross"][level]))
            cross_maps[self._cross_sizes[level]] = mean.unflatten(2, self._cross_sizes[level])
        self_map = self._self_sum
        if self_map is not None and self._self_level is not None:
            self_map = self_map / (num_steps * sum(layer.heads for layer in self._layers["self"][self._self_level]))
        return RecordedAttention(cross_maps, self_map, self._self_size)

    def _before_call(self, *_: object) -> None:
        self._is_on = self._steps is None or self._num_calls in self._steps
        self._num_calls += 1

    def _cross_hook(self, layer: Attention, level: int) -> Any:
        def record(_module: torch.nn.Module, _inputs: Any, query: torch.Tensor) -> None:
            if not self._is_on:
                return
            with torch.no_grad():
                if layer not in self._class_keys:
                    # inside the UNet's call, where a LoRA's scale applies; the texts do not change between steps
                    embeds = self._texts.embeds.to(query.device, query.dtype)
                    embeds = layer.norm_encoder_hidden_states(embeds) if layer.norm_cross else embeds
                    self._class_keys[layer] = _heads(layer, _projection(layer, "to_k")(embeds), layer.norm_k)
                queries = _heads(layer, query[-self._num_samples :].detach(), layer.norm_q)
                weights = self._texts.token_weights.to(query.device, torch.float32)
                samples = self._texts.samples.to(query.device)
                probabilities = _probabilities(layer, queries[samples], self._class_keys[layer])
                maps = weights @ probabilities.sum(dim=1).mT  # (R, K, S)
                if level not in self._cross_sums:
                    self._cross_sums[level] = maps.new_zeros(self._num_samples, *maps.shape[1:])
                self._cross_sums[level].index_add_(0, samples, maps)

        return record

    def _query_hook(self, layer: Attention) -> Any:
        def keep(_module: torch.nn.Module, _inputs: Any, query: torch.Tensor) -> None:
            if self._is_on:
                self._queries[layer] = query[-self._num_samples :].detach()

        return keep

    def _self_hook(self, layer: Attention) -> Any:
        def record(_module: torch.nn.Module, _inputs: Any, key: torch.Tensor) -> None:
            if not self._is_on:
                return
            with torch.no_grad():
                queries = _heads(layer, self._queries.pop(layer), layer.norm_q)
                keys = _heads(layer, key[-self._num_samples :].detach(), layer.norm_k)
                # head by head, so that one (B, S, S) array is all that is held beside the sum
                for head in range(layer.heads):
                    probabilities = _probabilities(layer, queries[:, head], keys[:, head])
                    if self._self_sum is None:
                        self._self_sum = probabilities
                    else:
                        self._self_sum.add_(probabilities)

        return record


def joined_texts(texts: Sequence[ClassTexts]) -> ClassTexts:
    """Those of a batch from each sample's own; samples of fewer classes get empty ones at the end."""
    num_classes = max(item.token_weights.shape[1] for item in texts)
    weights = [F.pad(item.token_weights, (0, 0, 0, num_classes - item.token_weights.shape[1])) for item in texts]
    samples = [torch.full((len(item.embeds),), row) for row, item in enumerate(texts)]
    return ClassTexts(torch.cat([item.embeds for item in texts]), torch.cat(samples), torch.cat(weights))


def attention_levels(unet: torch.nn.Module) -> dict[str, list[int]]:
    """The levels (halvings of the latents) where the UNet has ``cross`` and ``self`` attention."""
    return {kind: sorted(layers) for kind, layers in _layers_by_level(unet).items()}


def check_levels(unet: torch.nn.Module, cross_levels: Collection[int], self_level: int | None) -> None:
    """Raise ``ValueError`` for a level where the UNet has no attention of that kind."""
    known = attention_levels(unet)
    for kind, levels in (("cross", cross_levels), ("self", [] if self_level is None else [self_level])):
        for level in levels:
            if level not in known[kind]:
                raise ValueError(
                    f"{kind}_level is {level}, where the UNet has no {kind}-attention; choose from {known[kind]}."
                )


def _layers_by_level(unet: torch.nn.Module) -> dict[str, dict[int, list[Attention]]]:
    """Attention layers by kind and level. Block i of the way down works at level i; the last does not halve."""
    num_blocks = len(unet.config.down_block_types)  # pyright: ignore
    found: dict[str, dict[int, list[Attention]]] = {"cross": {}, "self": {}}
    for name, module in unet.named_modules():
        if not isinstance(module, Attention):
            continue
        part, _, rest = name.partition(".")
        if part == "mid_block":
            level = num_blocks - 1
        elif part == "down_blocks":
            level = int(rest.partition(".")[0])
        elif part == "up_blocks":
            level = num_blocks - 1 - int(rest.partition(".")[0])
        else:
            continue
        found["cross" if module.is_cross_attention else "self"].setdefault(level, []).append(module)
    return found


def _projection(layer: Attention, name: str) -> torch.nn.Module:
    return getattr(layer, name)


def _size_at(latent_size: tuple[int, int], level: int) -> tuple[int, int]:
    height, width = latent_size
    for _ in range(level):
        # a convolution of stride 2 and padding 1 rounds up
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def _heads(layer: Attention, features: torch.Tensor, norm: Any) -> torch.Tensor:
    """``(N, H, S, E)`` of a projection's output ``(N, S, H E)``."""
    heads = features.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    return heads if norm is None else norm(heads)


def _probabilities(layer: Attention, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """softmax(Q K^T scale) ``(…, S, L)`` float32 of queries ``(…, S, E)`` and keys ``(…, L, E)``."""
    scores = (query * layer.scale) @ key.mT
    return torch.softmax(scores, dim=-1, dtype=torch.float32)

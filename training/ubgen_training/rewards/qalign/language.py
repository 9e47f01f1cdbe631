"""What Q-Align answers with: LLaMA-2 with modality-adaptive modules (mPLUG-Owl2, arXiv 2311.04257).

Tokens of both modalities share queries, output projections and MLPs; keys, values and norms have a branch for each.

Shapes: B sequences, P prefix tokens (text, the same for all, kept as keys and values), T new tokens of which the first
``num_visual`` come from an image and the rest are text, H heads of width D, C = H D.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

# keys and values (1, H, P, D) of one block
KeyValue = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class LanguageSettings:
    """Sizes of the language model; the defaults are those of the published checkpoint, LLaMA-2-7B."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0


class ModalityAdaptive(nn.Module):
    """Two modules of one kind: the first ``num_visual`` tokens take ``visual``, the others ``text``."""

    def __init__(self, build: Callable[[], nn.Module]):
        super().__init__()
        self.text = build()
        self.visual = build()

    def forward(self, hidden: torch.Tensor, num_visual: int) -> torch.Tensor:
        if num_visual == 0:
            return self.text(hidden)
        return torch.cat([self.visual(hidden[:, :num_visual]), self.text(hidden[:, num_visual:])], dim=1)


class LanguageBlock(nn.Module):
    """One pre-norm decoder block with rotary positions."""

    def __init__(self, settings: LanguageSettings):
        super().__init__()
        width, inner = settings.hidden_size, settings.intermediate_size
        self.num_heads = settings.num_attention_heads

        def norm() -> nn.Module:
            return nn.RMSNorm(width, eps=settings.rms_norm_eps)

        def projection() -> nn.Module:
            return nn.Linear(width, width, bias=False)

        self.attention_norm = ModalityAdaptive(norm)
        self.query = projection()
        self.key = ModalityAdaptive(projection)
        self.value = ModalityAdaptive(projection)
        self.attention_output = projection()
        self.mlp_norm = ModalityAdaptive(norm)
        self.mlp_gate = nn.Linear(width, inner, bias=False)
        self.mlp_up = nn.Linear(width, inner, bias=False)
        self.mlp_down = nn.Linear(inner, width, bias=False)

    def forward(
        self, hidden: torch.Tensor, num_visual: int, rotation: torch.Tensor, prefix: KeyValue | None
    ) -> tuple[torch.Tensor, KeyValue]:
        """New ``hidden (B, T, C)``, and the keys and values ``(B, H, P + T, D)`` it attended to.

        Args:
            rotation: cosines and sines ``(2, T, D)`` of the T positions.
            prefix: keys and values of the P tokens before them.
        """
        normed = self.attention_norm(hidden, num_visual)
        query, key, value = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.query(normed), self.key(normed, num_visual), self.value(normed, num_visual))
        )
        query, key = _rotate(query, rotation), _rotate(key, rotation)
        mask = None
        if prefix is not None:
            key, value = (
                torch.cat([past.expand(len(new), -1, -1, -1), new], dim=2) for past, new in zip(prefix, (key, value))
            )
            num_past, num_new = prefix[0].shape[2], hidden.shape[1]
            mask = torch.ones(num_new, num_past + num_new, dtype=torch.bool, device=hidden.device).tril(num_past)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        hidden = hidden + self.attention_output(attended.transpose(1, 2).flatten(2))
        normed = self.mlp_norm(hidden, num_visual)
        return hidden + self.mlp_down(silu(self.mlp_gate(normed)) * self.mlp_up(normed)), (key, value)


class AdaptiveLlama(nn.Module):
    """The decoder: embeddings ``(B, T, C)`` after a cached prefix to the last position's state ``(B, C)``."""

    def __init__(self, settings: LanguageSettings):
        super().__init__()
        self.settings = settings
        self.token_embedding = nn.Embedding(settings.vocab_size, settings.hidden_size)
        self.blocks = nn.ModuleList(LanguageBlock(settings) for _ in range(settings.num_hidden_layers))
        self.output_norm = nn.RMSNorm(settings.hidden_size, eps=settings.rms_norm_eps)
        self.token_head = nn.Linear(settings.hidden_size, settings.vocab_size, bias=False)

    # not inference tensors, even where the first image is rated in inference mode: later ones may need gradients
    @torch.inference_mode(False)
    @torch.no_grad()
    def read_prefix(self, token_ids: torch.Tensor) -> list[KeyValue]:
        """Each block's keys and values of the text tokens ``token_ids (P,)`` that every sequence begins with."""
        hidden = self.token_embedding(token_ids[None])
        rotation = self._rotation(0, hidden)
        cache = []
        for block in self.blocks:
            hidden, key_value = block(hidden, 0, rotation, None)
            cache.append(key_value)
        return cache

    def forward(self, hidden: torch.Tensor, num_visual: int, prefix: list[KeyValue]) -> torch.Tensor:
        """The normalised last state ``(B, C)`` of the embeddings ``hidden (B, T, C)`` after ``prefix``."""
        rotation = self._rotation(prefix[0][0].shape[2], hidden)
        for block, key_value in zip(self.blocks, prefix):
            hidden, _ = block(hidden, num_visual, rotation, key_value)
        return self.output_norm(hidden[:, -1])

    def _rotation(self, first_position: int, hidden: torch.Tensor) -> torch.Tensor:
        """Cosines and sines ``(2, T, D)`` in ``hidden``'s precision, of float32 angles (arXiv 2104.09864, Eq. 15)."""
        width = self.settings.hidden_size // self.settings.num_attention_heads
        exponents = torch.arange(0, width, 2, device=hidden.device, dtype=torch.float32) / width
        positions = torch.arange(first_position, first_position + hidden.shape[1], device=hidden.device)
        angles = positions[:, None] * self.settings.rope_theta**-exponents
        angles = torch.cat([angles, angles], dim=-1)
        return torch.stack([angles.cos(), angles.sin()]).to(hidden.dtype)


def _rotate(states: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Rotary positions on ``states (B, H, T, D)``; a pair is an element of the first half and one of the second."""
    first, second = states.chunk(2, dim=-1)
    return states * rotation[0] + torch.cat([-second, first], dim=-1) * rotation[1]

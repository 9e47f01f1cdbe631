"""What Q-Align sees with: the vision encoder and the visual abstractor of mPLUG-Owl2 (arXiv 2311.04257).

Shapes: B images, N = 1 + (image_size / patch_size)^2 vision tokens, Q queries, V width of the vision encoder, L width
of the language model. The parameters' names are this project's; ``qalign_checkpoint`` knows the published ones.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu


@dataclass(frozen=True)
class VisionSettings:
    """Sizes of the vision encoder; the defaults are those of the published checkpoint, a ViT-L/14 at 448 pixels."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 448
    patch_size: int = 14
    layer_norm_eps: float = 1e-6

    @property
    def num_tokens(self) -> int:
        """The class token and one for each patch."""
        return 1 + (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class AbstractorSettings:
    """Sizes of the abstractor; the defaults are those of the published checkpoint."""

    hidden_size: int = 1024
    intermediate_size: int = 2816
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    num_learnable_queries: int = 64
    layer_norm_eps: float = 1e-6


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Fused attention of ``query (B, T, C)`` over ``key, value (B, S, C)``: ``(B, T, C)``."""
    query, key, value = (tensor.unflatten(-1, (num_heads, -1)).transpose(1, 2) for tensor in (query, key, value))
    return scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class VisionBlock(nn.Module):
    """One pre-norm transformer block of the vision encoder."""

    def __init__(self, settings: VisionSettings):
        super().__init__()
        width = settings.hidden_size
        self.num_heads = settings.num_attention_heads
        self.attention_norm = nn.LayerNorm(width, eps=settings.layer_norm_eps)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=settings.layer_norm_eps)
        self.mlp_in = nn.Linear(width, settings.intermediate_size)
        self.mlp_out = nn.Linear(settings.intermediate_size, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        # the joint projection's rows go head by head, query, key and value of one head together
        joint = self.query_key_value(self.attention_norm(hidden)).unflatten(-1, (self.num_heads, 3, -1))
        query, key, value = (part.flatten(2) for part in joint.unbind(dim=3))
        hidden = hidden + self.attention_output(attend(query, key, value, self.num_heads))
        inner = self.mlp_in(self.mlp_norm(hidden))
        # CLIP's approximation of GELU
        return hidden + self.mlp_out(inner * torch.sigmoid(1.702 * inner))


class VisionEncoder(nn.Module):
    """A vision transformer: normalised pixels ``(B, 3, S, S)`` to tokens ``(B, N, V)``, the class token first."""

    def __init__(self, settings: VisionSettings):
        super().__init__()
        width = settings.hidden_size
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.position_embedding = nn.Parameter(torch.empty(1, settings.num_tokens, width))
        self.patch_projection = nn.Conv2d(3, width, settings.patch_size, settings.patch_size, bias=False)
        self.input_norm = nn.LayerNorm(width, eps=settings.layer_norm_eps)
        self.blocks = nn.ModuleList(VisionBlock(settings) for _ in range(settings.num_hidden_layers))
        self.output_norm = nn.LayerNorm(width, eps=settings.layer_norm_eps)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patch_projection(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(pixels), -1, -1), patches], dim=1)
        hidden = self.input_norm(tokens + self.position_embedding)
        for block in self.blocks:
            hidden = block(hidden)
        return self.output_norm(hidden)


class AbstractorBlock(nn.Module):
    """Queries attend over themselves and the vision tokens, then pass a gated MLP with a norm inside it.

    The residual path starts at the *normalised* queries; positions are added to what makes queries and keys, not to
    the values.
    """

    query_positions: torch.Tensor
    key_positions: torch.Tensor

    def __init__(self, settings: AbstractorSettings, num_tokens: int):
        super().__init__()
        width, inner = settings.hidden_size, settings.intermediate_size
        self.num_heads = settings.num_attention_heads
        # these two norms and mlp_norm keep torch's epsilon whatever the settings say
        self.query_norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(width)
        self.register_buffer("query_positions", torch.empty(settings.num_learnable_queries, width))
        self.register_buffer("key_positions", torch.empty(num_tokens, width))
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_output = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_gate = nn.Linear(width, inner)
        self.mlp_up = nn.Linear(width, inner)
        self.mlp_inner_norm = nn.LayerNorm(inner, eps=settings.layer_norm_eps)
        self.mlp_down = nn.Linear(inner, width)

    def forward(self, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        queries = self.query_norm(queries)
        context = torch.cat([queries, self.token_norm(tokens)], dim=1)
        positions = torch.cat([self.query_positions, self.key_positions])
        attended = attend(
            self.query(queries + self.query_positions),
            self.key(context + positions),
            self.value(context),
            self.num_heads,
        )
        hidden = queries + self.attention_output(attended)
        normed = self.mlp_norm(hidden)
        inner = self.mlp_inner_norm(silu(self.mlp_gate(normed)) * self.mlp_up(normed))
        return hidden + self.mlp_down(inner)


class VisualAbstractor(nn.Module):
    """Condenses vision tokens ``(B, N, V)`` into ``(B, Q + 1, L)``: Q learned queries, then the end-of-image token."""

    def __init__(self, settings: AbstractorSettings, num_tokens: int, language_width: int):
        super().__init__()
        self.queries = nn.Parameter(torch.empty(1, settings.num_learnable_queries, settings.hidden_size))
        self.blocks = nn.ModuleList(AbstractorBlock(settings, num_tokens) for _ in range(settings.num_hidden_layers))
        self.projection = nn.Linear(settings.hidden_size, language_width)
        self.end_token = nn.Parameter(torch.empty(1, 1, language_width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.queries.expand(len(tokens), -1, -1)
        for block in self.blocks:
            hidden = block(hidden, tokens)
        return torch.cat([self.projection(hidden), self.end_token.expand(len(tokens), -1, -1)], dim=1)

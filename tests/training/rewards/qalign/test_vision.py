"""The vision encoder against transformers' CLIP on equal weights; the abstractor against its formulas, written out."""

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from ubgen_training.rewards.qalign.vision import (
    AbstractorBlock,
    AbstractorSettings,
    VisionEncoder,
    VisionSettings,
    VisualAbstractor,
)

VISION = VisionSettings(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    image_size=12,
    patch_size=4,
    layer_norm_eps=1e-3,
)
ABSTRACTOR = AbstractorSettings(
    hidden_size=24,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=3,
    num_learnable_queries=4,
    layer_norm_eps=1e-3,
)


def randomised(module: nn.Module) -> nn.Module:
    """Every parameter and buffer at random, in float64 and without gradient."""
    generator = torch.Generator().manual_seed(0)
    module = module.double().eval().requires_grad_(False)
    for tensor in module.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) / 3)
    return module


def test_tokens_are_clips():
    clip = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=3,
            image_size=12,
            patch_size=4,
            layer_norm_eps=1e-3,
            hidden_act="quick_gelu",
            attn_implementation="eager",
        )
    )
    own = randomised(VisionEncoder(VISION))
    state = {name: tensor for name, tensor in own.state_dict().items() if not name.startswith("blocks.")}
    theirs = {
        "embeddings.class_embedding": state["class_token"].flatten(),
        "embeddings.position_embedding.weight": state["position_embedding"][0],
        "embeddings.patch_embedding.weight": state["patch_projection.weight"],
        **{f"pre_layrnorm.{kind}": state[f"input_norm.{kind}"] for kind in ("weight", "bias")},
        **{f"post_layernorm.{kind}": state[f"output_norm.{kind}"] for kind in ("weight", "bias")},
    }
    names = {"attention_norm": "layer_norm1", "mlp_norm": "layer_norm2", "mlp_in": "mlp.fc1", "mlp_out": "mlp.fc2"}
    names["attention_output"] = "self_attn.out_proj"
    for number, block in enumerate(own.blocks):
        layer = f"encoder.layers.{number}"
        for kind in ("weight", "bias"):
            for mine, name in names.items():
                theirs[f"{layer}.{name}.{kind}"] = getattr(getattr(block, mine), kind)
            # three heads of eight rows for each of query, key and value
            joint = getattr(block.query_key_value, kind).unflatten(0, (3, 3, 8))
            for place, name in enumerate(("q_proj", "k_proj", "v_proj")):
                theirs[f"{layer}.self_attn.{name}.{kind}"] = joint[:, place].flatten(0, 1)
    clip = clip.double().eval().requires_grad_(False)
    inner = getattr(clip, "vision_model", clip)
    assert not inner.load_state_dict(theirs, strict=False).unexpected_keys
    assert {name for name, _ in inner.named_parameters()} == set(theirs)
    pixels = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = inner.post_layernorm(inner(pixels).last_hidden_state)
    tokens = own(pixels)
    assert tokens.shape == (2, VISION.num_tokens, 24) == (2, 10, 24)
    torch.testing.assert_close(tokens, expected)


def normed(x: torch.Tensor, norm: nn.LayerNorm, eps: float) -> torch.Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt() * norm.weight + norm.bias


@pytest.fixture
def block() -> AbstractorBlock:
    return randomised(AbstractorBlock(ABSTRACTOR, num_tokens=5))


def test_a_block_of_the_abstractor_is_its_formulas(block):
    generator = torch.Generator().manual_seed(2)
    queries, tokens = (torch.randn(2, count, 24, generator=generator, dtype=torch.float64) for count in (4, 5))
    start = normed(queries, block.query_norm, 1e-5)
    context = torch.cat([start, normed(tokens, block.token_norm, 1e-5)], dim=1)
    places = torch.cat([block.query_positions, block.key_positions])
    query, key = block.query(start + block.query_positions), block.key(context + places)
    value = block.value(context)
    heads = []
    for head in range(3):
        part = slice(8 * head, 8 * head + 8)
        weights = (query[..., part] @ key[..., part].mT / 8**0.5).softmax(dim=-1)
        heads.append(weights @ value[..., part])
    hidden = start + block.attention_output(torch.cat(heads, dim=-1))
    inner = normed(hidden, block.mlp_norm, 1e-5)
    gate = block.mlp_gate(inner)
    # the norm inside the MLP is the one with the settings' epsilon
    inner = normed(gate * gate.sigmoid() * block.mlp_up(inner), block.mlp_inner_norm, 1e-3)
    torch.testing.assert_close(block(queries, tokens), hidden + block.mlp_down(inner))


def test_the_abstractor_gives_its_queries_and_then_the_end_of_the_image():
    abstractor = randomised(VisualAbstractor(ABSTRACTOR, num_tokens=5, language_width=16))
    tokens = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    seen = abstractor(tokens)
    assert seen.shape == (2, 5, 16)
    assert torch.equal(seen[:, -1], abstractor.end_token[0].expand(2, -1))
    hidden = abstractor.queries.expand(2, -1, -1)
    for block in abstractor.blocks:
        hidden = block(hidden, tokens)
    torch.testing.assert_close(seen[:, :-1], abstractor.projection(hidden))
    # what an image shows reaches its own tokens only
    other = abstractor(torch.cat([tokens[:1], 2 * tokens[1:].flip(-1)]))
    torch.testing.assert_close(other[0], seen[0])
    assert (other[1, :-1] - seen[1, :-1]).abs().max() > 1e-3

"""The language model against transformers' LLaMA on equal weights, and its branch for what comes from an image."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from ubgen_training.rewards.qalign.language import AdaptiveLlama, LanguageSettings, ModalityAdaptive

SETTINGS = LanguageSettings(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=4,
    rms_norm_eps=1e-4,
    rope_theta=500.0,
)
TOKENS = torch.tensor([3, 17, 4, 4, 49, 0, 21, 8])


@pytest.fixture(scope="module")
def llama() -> LlamaModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        rms_norm_eps=1e-4,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        initializer_range=0.4,
        attn_implementation="eager",
    )
    model = LlamaModel(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def own(llama) -> AdaptiveLlama:
    """The same weights, in the branches of both modalities."""
    model = AdaptiveLlama(SETTINGS).eval().requires_grad_(False)
    model.token_embedding.weight.copy_(llama.embed_tokens.weight)
    model.output_norm.weight.copy_(llama.norm.weight)
    for block, layer in zip(model.blocks, llama.layers, strict=True):
        pairs = {
            block.query: layer.self_attn.q_proj,
            block.attention_output: layer.self_attn.o_proj,
            block.mlp_gate: layer.mlp.gate_proj,
            block.mlp_up: layer.mlp.up_proj,
            block.mlp_down: layer.mlp.down_proj,
        }
        for branches, module in (
            (block.attention_norm, layer.input_layernorm),
            (block.key, layer.self_attn.k_proj),
            (block.value, layer.self_attn.v_proj),
            (block.mlp_norm, layer.post_attention_layernorm),
        ):
            pairs |= {branches.text: module, branches.visual: module}
        for mine, theirs in pairs.items():
            mine.weight.copy_(theirs.weight)
    return model


@pytest.mark.parametrize("cut", [1, 5, 7])
@pytest.mark.parametrize("num_visual", [0, 1])
def test_the_last_state_is_llamas(llama, own, cut, num_visual):
    """Whatever part of the sequence is kept as a prefix, and in whichever branch equal weights stand."""
    expected = llama(TOKENS[None]).last_hidden_state[:, -1]
    new = own.token_embedding(TOKENS[None, cut:])
    assert torch.allclose(own(new, num_visual, own.read_prefix(TOKENS[:cut])), expected, atol=2e-5)


def test_every_sequence_of_a_batch_follows_the_one_prefix(llama, own):
    new = torch.randn(3, 4, 24, generator=torch.Generator().manual_seed(1))
    prefix = llama.embed_tokens(TOKENS[:5])[None].expand(3, -1, -1)
    expected = llama(inputs_embeds=torch.cat([prefix, new], dim=1)).last_hidden_state[:, -1]
    assert torch.allclose(own(new, 2, own.read_prefix(TOKENS[:5])), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["attention_norm", "key", "value", "mlp_norm"])
def test_the_visual_branch_is_that_of_the_first_tokens_alone(own, name):
    new = torch.randn(1, 4, 24, generator=torch.Generator().manual_seed(1))
    prefix = own.read_prefix(TOKENS[:3])
    text, mixed = own(new, 0, prefix), own(new, 2, prefix)
    assert torch.allclose(mixed, text, atol=1e-6)
    getattr(own.blocks[0], name).visual.weight.mul_(1.7)
    assert torch.equal(own(new, 0, prefix), text)
    assert (own(new, 2, prefix) - text).abs().max() > 1e-3


def test_tokens_take_the_branch_of_their_place():
    adaptive = ModalityAdaptive(lambda: nn.Linear(1, 1, bias=False)).requires_grad_(False)
    adaptive.text.weight.fill_(2.0)
    adaptive.visual.weight.fill_(-1.0)
    assert adaptive(torch.ones(1, 4, 1), 3).flatten().tolist() == [-1, -1, -1, 2]
    assert adaptive(torch.ones(1, 4, 1), 0).flatten().tolist() == [2, 2, 2, 2]

"""The transformer blocks' products by oneDNN: the same numbers, no larger error than torch's own."""

import pytest
import torch
from diffusers.models.activations import GEGLU
from torch import nn

from ubgen_pipeline.inference.packed_products import PackedGEGLU, PackedLinear, pack_products
from ubgen_pipeline.models.loading import load_pipeline

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


def _error(result, reference):
    return ((result - reference).norm() / reference.norm()).item()


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_packed_layer_gives_its_layers_product(bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(320, 80, bias=bias), torch.randn(2, 50, 320)
    reference = layer.double()(x.double())
    assert _error(PackedLinear(layer.float())(x), reference) < 1e-6
    # the product is not rounded to 16 bits, and a transposed input is read as it stands
    turned = x.mT.contiguous().mT
    assert _error(PackedLinear(layer)(turned), reference) < 1e-6


@needs_onednn
@torch.no_grad()
def test_a_packed_gate_gives_its_layers_result():
    torch.manual_seed(0)
    layer, x = GEGLU(80, 320), torch.randn(2, 50, 80)
    assert _error(PackedGEGLU(layer)(x), layer.double()(x.double())) < 1e-6


@needs_onednn
@torch.no_grad()
def test_a_packed_unet_is_as_close_to_float64_as_it_was(random_mini_model):
    unet = load_pipeline(random_mini_model).unet
    torch.manual_seed(0)
    inputs = torch.randn(4, 4, 16, 16), torch.tensor(500), torch.randn(4, 77, 96)
    plain = unet(*inputs).sample
    wide = load_pipeline(random_mini_model, torch_dtype=torch.float64).unet
    reference = wide(inputs[0].double(), inputs[1], inputs[2].double()).sample
    # 7 blocks of two attentions with four products each, a gated product and one after it, of the mini model
    assert pack_products(unet) == 7 * 10
    packed = unet(*inputs).sample
    assert _error(packed, reference) < 1.5 * _error(plain, reference)
    assert not any(type(module) is nn.Linear for module in unet.mid_block.attentions.modules())
    # outside of the blocks nothing changed
    assert type(unet.time_embedding.linear_1) is nn.Linear


def test_what_does_not_fit_stays_as_it_was(random_mini_model, monkeypatch):
    assert pack_products(load_pipeline(random_mini_model, torch_dtype=torch.bfloat16).unet) == 0
    unet = load_pipeline(random_mini_model).unet
    monkeypatch.setattr("ubgen_pipeline.inference.packed_products.has_onednn_products", lambda: False)
    assert pack_products(unet) == 0 and type(unet.mid_block.attentions[0].transformer_blocks[0].ff.net[2]) is nn.Linear

"""Attaching a LoRA: what is trained, in which precision it multiplies, and that it can be switched off and on."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from ubgen_training.lora.adapter import (
    LoraSettings,
    adapters_disabled,
    add_lora,
    check_train_method,
    lora_layers,
    train_all_weights,
)


def small_unet(dtype=torch.float32):
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    ).to(dtype)


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    latents, prompt = (torch.randn(shape, generator=generator).to(dtype) for shape in ((2, 4, 8, 8), (2, 3, 8)))
    return latents, torch.tensor(10), prompt


def filled(unet, std=0.5):
    """``unet`` with both factors of its LoRA different from 0."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * std)
    return unet


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_lora_alone_is_trained_in_float32_and_starts_as_the_model(dtype):
    unet = small_unet(dtype)
    with torch.no_grad():
        before = unet(*inputs(dtype)).sample
    add_lora(unet, LoraSettings(rank=2), seed=3)
    trained = {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name and weight.dtype == torch.float32 for name, weight in trained.items())
    assert {weight.dtype for name, weight in unet.named_parameters() if name not in trained} == {dtype}
    with torch.no_grad():
        assert torch.equal(unet(*inputs(dtype)).sample, before)


def test_alpha_scales_the_lora_and_is_the_rank_where_none_is_given():
    plain, own = small_unet(), small_unet()
    add_lora(plain, LoraSettings(rank=4), seed=3)
    add_lora(own, LoraSettings(rank=4, alpha=2.0), seed=3)
    assert {layer.scaling["default"] for layer in lora_layers(plain).values()} == {1.0}
    assert {layer.scaling["default"] for layer in lora_layers(own).values()} == {0.5}


def test_equal_seeds_give_equal_weights_and_torchs_own_random_state_stays():
    state = torch.random.get_rng_state()
    first, second, other = small_unet(), small_unet(), small_unet()
    torch.random.set_rng_state(state)
    for unet, seed in ((first, 3), (second, 3), (other, 4)):
        add_lora(unet, LoraSettings(rank=2), seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [[w for n, w in unet.named_parameters() if "lora_A" in n] for unet in (first, second, other)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))


def test_a_16_bit_models_lora_multiplies_in_16_bits_and_gets_its_gradient_in_float32():
    unet = small_unet(torch.bfloat16)
    add_lora(unet, LoraSettings(rank=2), seed=3)
    filled(unet)
    layer = next(iter(lora_layers(unet).values()))
    dtypes = []
    for matrices in (layer.lora_A, layer.lora_B):
        matrices["default"].register_forward_hook(
            lambda _, given, result: dtypes.append((given[0].dtype, result.dtype))
        )
    unet(*inputs(torch.bfloat16)).sample.float().square().mean().backward()
    assert dtypes == [(torch.bfloat16, torch.bfloat16)] * 2
    gradients = [weight.grad for weight in unet.parameters() if weight.requires_grad]
    assert all(gradient.dtype == torch.float32 and gradient.any() for gradient in gradients)


def test_the_cast_layers_keep_the_very_parameters_and_the_names_of_pefts():
    """An optimizer, a checkpoint or a saved LoRA must not see that the layers were replaced."""
    from peft import LoraConfig

    ours, pefts = small_unet(), small_unet()
    add_lora(ours, LoraSettings(rank=2), seed=3)
    pefts.requires_grad_(False)
    torch.manual_seed(3)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    pefts.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights="gaussian", target_modules=targets))
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in pefts.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), pefts.state_dict().values(), strict=True))
    # in float32 the products are peft's own
    assert torch.equal(filled(ours)(*inputs()).sample, filled(pefts)(*inputs()).sample)


def test_all_weights_are_trained_in_float32_without_an_adapter():
    unet = small_unet(torch.bfloat16)
    train_all_weights(unet)
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in unet.parameters())
    assert not lora_layers(unet)


def test_inside_the_adapters_are_off_and_a_graph_that_holds_them_keeps_its_gradient():
    unet = small_unet()
    with torch.no_grad():
        before = unet(*inputs()).sample
    add_lora(unet, LoraSettings(rank=2), seed=3)
    filled(unet)
    after = unet(*inputs()).sample
    with torch.no_grad(), adapters_disabled(unet):
        assert torch.equal(unet(*inputs()).sample, before)
    (after - before).square().mean().backward()
    assert all(weight.grad.any() for weight in unet.parameters() if weight.requires_grad)
    assert torch.equal(unet(*inputs()).sample, after)


def test_a_module_without_adapter_is_an_error():
    with pytest.raises(ValueError, match="no adapter"), adapters_disabled(nn.Linear(2, 2)):
        pass


@pytest.mark.parametrize(
    "settings, message",
    [(LoraSettings(rank=0), "lora_rank is 0"), (LoraSettings(rank=2, target_modules=("no_such",)), "no_such")],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        add_lora(small_unet(), settings, seed=0)


def test_an_unknown_train_method_is_named_with_those_there_are():
    check_train_method("full")
    check_train_method("scratch", ("lora", "scratch"))
    with pytest.raises(ValueError, match="train_method is 'scratch'; choose one of lora, full"):
        check_train_method("scratch")

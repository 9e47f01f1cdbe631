"""The UNet of the steps without gradient against the trained one: predictions, gradients, updates, compiling."""

import warnings

import pytest
import torch
from torch import nn

from ubgen_pipeline.inference.packed_products import PackedLinear
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.lora.adapter import LoraSettings
from ubgen_training.sampler.gradient_steps import GradientSteps
from ubgen_training.sampler.rollout_denoiser import RolloutDenoiser, copy_lora, put_channels_last, twin_network
from ubgen_training.sampler.sampler_model import SamplerModel, SamplingSettings
from ubgen_training.ubgen.ubgen_config import UbGenConfig

NAMES = ["circle", "star", "ring"]
LABELS, SEEDS = torch.tensor([0, 2]), [11, 12]
GRADIENT_STEPS = GradientSteps(frozenset({1, 3}))
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def build(model, dtype=torch.float32, targets=ATTENTION, method="lora", std=0.1):
    pipeline = load_pipeline(model, scheduler="ddpm", torch_dtype=dtype)
    lora = LoraSettings(4, target_modules=targets)
    sampler = SamplerModel(pipeline, NAMES, lora, SamplingSettings(4), seed=3, train_method=method)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in sampler.named_parameters():
        # B starts at zero, where the LoRA does nothing
        if "lora_B" in name:
            nn.init.normal_(parameter, std=std, generator=generator)
    return sampler


@pytest.fixture(scope="module")
def sampler(tiny_model):
    return build(tiny_model)


def inputs(sampler, rows=2):
    latents = torch.randn(rows, *sampler.latent_shape, generator=torch.Generator().manual_seed(5))
    return latents, torch.tensor(300), sampler.conditioning.rows([row % 3 for row in range(rows)])


def predictions(sampler):
    """Of the trained UNet, and of the other."""
    rollout = RolloutDenoiser(sampler.pipeline)
    assert rollout.refresh()
    with torch.no_grad():
        return sampler.predict(*inputs(sampler)), rollout(*inputs(sampler))


def lora_gradient(sampler, gradient_steps=GRADIENT_STEPS):
    images = sampler(LABELS, SEEDS, gradient_steps)
    loss = (images * torch.linspace(-1, 1, images.numel()).reshape(images.shape)).sum()
    parameters = [p for p in sampler.parameters() if p.requires_grad]
    return images.detach(), torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])


@pytest.mark.parametrize("targets", [ATTENTION, ("conv1", "ff.net.0.proj")], ids=["attention", "other layers"])
def test_the_fused_copy_answers_as_the_trained_unet(tiny_model, targets):
    sampler = build(tiny_model, targets=targets)
    expected, own = predictions(sampler)
    torch.testing.assert_close(own, expected, rtol=0, atol=2e-5)
    # the LoRA is in it: without one the answer is another
    for name, parameter in sampler.named_parameters():
        if "lora_B" in name:
            nn.init.zeros_(parameter)
    assert (own - predictions(sampler)[1]).abs().max() > 1e-3


def test_images_and_gradient_are_those_of_the_trained_unet(tiny_model, sampler):
    faster = build(tiny_model)
    faster.speed_up_rollouts()
    images, gradient = lora_gradient(faster)
    expected_images, expected = lora_gradient(sampler)
    torch.testing.assert_close(images, expected_images, rtol=0, atol=1e-4)
    assert torch.cosine_similarity(gradient, expected, dim=0) > 0.9999
    assert (gradient - expected).norm() < 1e-3 * expected.norm()


def test_only_the_steps_without_gradient_leave_the_trained_unet(tiny_model):
    sampler, calls = build(tiny_model), []
    sampler.speed_up_rollouts()
    # the other UNet copies the hooks that are there when it is made
    sampler(LABELS, SEEDS, GRADIENT_STEPS)
    sampler.denoiser_network.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    sampler(LABELS, SEEDS, GRADIENT_STEPS)
    assert calls == [True, True]
    # the distance to the untrained model switches the trained UNet's adapters off
    calls.clear()
    _, (distance, _) = sampler(LABELS, SEEDS, GRADIENT_STEPS, with_distance=True)
    assert calls == [True, False] * 2 and (distance > 0).all()


def test_every_rollout_takes_the_weights_as_they_are(tiny_model):
    sampler = build(tiny_model)
    rollout = RolloutDenoiser(sampler.pipeline)
    rollout.refresh()
    before = rollout(*inputs(sampler))
    with torch.no_grad():
        for parameter in sampler.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    assert torch.equal(rollout(*inputs(sampler)), before)
    rollout.refresh()
    after = rollout(*inputs(sampler))
    with torch.no_grad():
        torch.testing.assert_close(after, sampler.predict(*inputs(sampler)), rtol=0, atol=2e-5)
    assert (after - before).abs().max() > 1e-3


def test_refreshing_many_times_adds_no_rounding(sampler):
    rollout = RolloutDenoiser(sampler.pipeline)
    rollout.refresh()
    first = rollout(*inputs(sampler))
    for _ in range(20):
        rollout.refresh()
    assert torch.equal(rollout(*inputs(sampler)), first)


def test_only_what_the_lora_touches_is_kept_twice(sampler):
    own = {p.data_ptr() for p in sampler.denoiser_network.parameters()}
    twin = twin_network(sampler.denoiser_network)
    copied = [name for name, p in twin.named_parameters() if p.data_ptr() not in own]
    assert copied and all(".to_" in name and name.endswith("weight") for name in copied)
    assert not any(p.requires_grad for p in twin.parameters())
    assert not any("lora" in name for name, _ in twin.named_parameters())


def test_the_state_dict_and_the_trained_weights_stay_as_they_were(tiny_model):
    sampler = build(tiny_model)
    before = {name: value.clone() for name, value in sampler.state_dict().items()}
    sampler.speed_up_rollouts()
    sampler(LABELS, SEEDS, GRADIENT_STEPS)
    after = sampler.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_a_whole_unet_in_training_shares_every_weight(tiny_model):
    sampler = build(tiny_model, method="full")
    assert all(
        a is b
        for a, b in zip(
            sampler.denoiser_network.parameters(), twin_network(sampler.denoiser_network).parameters(), strict=True
        )
    )


def test_products_on_a_cpu_are_packed_and_those_of_compiled_code_are_not(sampler):
    def num_packed(**settings):
        rollout = RolloutDenoiser(sampler.pipeline, **settings)
        rollout.refresh()
        rollout.refresh()
        return sum(isinstance(module, PackedLinear) for module in rollout._twin.modules())

    layers = [
        module
        for name, module in sampler.denoiser_network.named_modules()
        if name.rsplit(".", 1)[-1] in ("to_q", "to_v")
    ]
    assert num_packed() >= len(layers) > 0
    assert num_packed(compiled_rows=2) == 0


def test_weights_that_were_replaced_are_found(tiny_model):
    sampler = build(tiny_model)
    rollout = RolloutDenoiser(sampler.pipeline)
    rollout.refresh()
    sampler.denoiser_network.conv_in.weight = nn.Parameter(
        sampler.denoiser_network.conv_in.weight * 2, requires_grad=False
    )
    rollout.refresh()
    with torch.no_grad():
        expected = sampler.predict(*inputs(sampler))
    torch.testing.assert_close(rollout(*inputs(sampler)), expected, rtol=0, atol=2e-5)


def test_in_16_bits_the_lora_stays_beside_the_weights_without_float32(tiny_model):
    sampler, float32 = build(tiny_model, torch.bfloat16), build(tiny_model)
    kinds = set()
    sampler.denoiser_network.up_blocks[0].resnets[0].norm1.register_forward_hook(
        lambda _, __, output: kinds.add(output.dtype)
    )
    with torch.autocast("cpu", torch.bfloat16):
        expected, own = predictions(sampler)
    # neither peft nor autocast widened anything
    assert kinds == {torch.bfloat16}
    # the same products in the same precision
    torch.testing.assert_close(own, expected, rtol=0, atol=1e-2)
    assert own.dtype == torch.float32
    with torch.no_grad():
        exact = float32.predict(*inputs(float32))
    assert (own - exact).norm() < 0.03 * exact.norm()
    assert (own - exact).norm() < 1.2 * (expected - exact).norm()


def test_a_small_lora_is_not_lost_in_16_bits(tiny_model):
    sampler = build(tiny_model, torch.bfloat16, std=2e-4)
    twin = twin_network(sampler.denoiser_network)
    copy_lora(sampler.denoiser_network, twin)

    def layer(unet):
        return unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q

    def error(change):
        return ((change - exact).norm() / exact.norm()).item()

    with torch.no_grad():
        exact, weight = (
            layer(sampler.denoiser_network).get_delta_weight("default"),
            layer(sampler.denoiser_network).weight,
        )
        assert error(layer(twin).get_delta_weight("default").float()) < 0.02
        # what fusing would have done to it
        assert error((weight + exact.to(weight.dtype)).float() - weight.float()) > 0.2


def test_frozen_convolutions_change_their_layout_and_no_value(tiny_model):
    sampler = build(tiny_model, targets=("conv1", "to_q"))
    with torch.no_grad():
        before = sampler.predict(*inputs(sampler))
        put_channels_last(sampler.denoiser_network)
        torch.testing.assert_close(sampler.predict(*inputs(sampler)), before, rtol=0, atol=2e-5)
    assert sampler.denoiser_network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    # what is saved must stay contiguous
    assert all(p.is_contiguous() for p in sampler.parameters() if p.requires_grad)


def test_a_16_bit_gradient_is_float32_and_near_the_exact_one(tiny_model, sampler):
    half = build(tiny_model, torch.bfloat16)
    half.speed_up_rollouts()
    with torch.autocast("cpu", torch.bfloat16):
        _, gradient = lora_gradient(half)
    assert gradient.dtype == torch.float32
    assert torch.cosine_similarity(gradient, lora_gradient(sampler)[1], dim=0) > 0.98


def test_float32_weights_under_autocast_are_not_fused(sampler):
    rollout = RolloutDenoiser(sampler.pipeline)
    with torch.autocast("cpu", torch.bfloat16):
        assert not rollout.refresh()


def test_compiled_predictions_are_equal_to_rounding_and_follow_updates(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    sampler = build(tiny_model)
    compiled = RolloutDenoiser(sampler.pipeline, compiled_rows=2)
    # the captured graph as it is: the C++ compiler takes half a minute
    monkeypatch.setattr(compiled, "_compile", lambda twin: torch.compile(twin, dynamic=False, backend="eager"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for factor in (1.0, 1.5):
            with torch.no_grad():
                for name, parameter in sampler.named_parameters():
                    if "lora_B" in name:
                        parameter.mul_(factor)
                expected = sampler.predict(*inputs(sampler))
            compiled.refresh()
            torch.testing.assert_close(compiled(*inputs(sampler)), expected, rtol=0, atol=2e-5)
    # another batch size runs as it is
    with torch.no_grad():
        expected = sampler.predict(*inputs(sampler, 3))
    torch.testing.assert_close(compiled(*inputs(sampler, 3)), expected, rtol=0, atol=2e-5)


def test_where_compiling_fails_a_warning_says_so_and_sampling_goes_on(sampler, monkeypatch):
    calls = []

    def broken(*_, **__):
        calls.append(0)
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found")

    rollout = RolloutDenoiser(sampler.pipeline, compiled_rows=2)
    monkeypatch.setattr(rollout, "_compile", lambda twin: broken)
    rollout.refresh()
    with pytest.warns(UserWarning, match="torch.compile does not work here .InvalidCxxCompiler.*compile_rollout off"):
        own = rollout(*inputs(sampler))
    with torch.no_grad():
        torch.testing.assert_close(own, sampler.predict(*inputs(sampler)), rtol=0, atol=2e-5)
    rollout(*inputs(sampler))
    assert len(calls) == 1


def test_no_memory_left_is_not_taken_for_a_broken_compiler(sampler, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("no memory")

    rollout = RolloutDenoiser(sampler.pipeline, compiled_rows=2)
    monkeypatch.setattr(rollout, "_compile", lambda twin: full)
    rollout.refresh()
    with pytest.raises(torch.OutOfMemoryError):
        rollout(*inputs(sampler))


@pytest.mark.parametrize(
    "choice, images, device, expected",
    [
        ("auto", 10**6, "cuda", True),
        ("auto", 100, "cuda", False),
        ("auto", 10**9, "cpu", False),
        ("on", 1, "cpu", True),
        ("off", 10**9, "cuda", False),
    ],
)
def test_auto_compiles_long_trainings_on_a_gpu(tmp_path, monkeypatch, choice, images, device, expected):
    config = UbGenConfig(output_dir=str(tmp_path), use_cpu=True, compile_rollout=choice)
    monkeypatch.setattr(UbGenConfig, "device", torch.device(device))
    assert config.compiles_rollout(images, 50) is expected


def test_an_unknown_choice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="compile_rollout is 'yes'; choose one of auto, on, off"):
        UbGenConfig(output_dir=str(tmp_path), use_cpu=True, compile_rollout="yes")

"""The distance to the adapter-off model: its value, its LoRA gradient against hand computation, no side effects."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from ubgen_pipeline.latent_denoising import denoising_steps
from ubgen_training.lora.adapter import adapters_disabled, weights_exchanged
from ubgen_training.sampler.reference_distance import ReferenceDistance, norm_excess, prediction_distance

WIDTH, RANK, ALPHA, BATCH = 4, 2, 3.0, 3


class _LinearDenoiser(nn.Module):
    """``W (x + c)`` over latents (N, 4, 1, 1), W with a LoRA; c is the prompt's first row."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.float64)

    def forward(self, latents, timestep, prompt_embeds):
        return self.linear(latents.flatten(1) + prompt_embeds[:, 0]).view_as(latents)


class _Euler:
    """x <- x - 0.3 prediction."""

    init_noise_sigma = 1.0

    def __init__(self, num_steps):
        self.timesteps = torch.arange(num_steps)

    def scale_model_input(self, sample, timestep):
        return sample

    def step(self, prediction, timestep, sample, return_dict=False):
        return (sample - 0.3 * prediction,)


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    module = _LinearDenoiser()
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["linear"]), module)
    factors = module.linear
    factors.lora_A["default"].weight.data = torch.randn(RANK, WIDTH, dtype=torch.float64)
    factors.lora_B["default"].weight.data = torch.randn(WIDTH, RANK, dtype=torch.float64)
    return module


def _factors(module):
    return module.linear.lora_A["default"].weight, module.linear.lora_B["default"].weight


def _inputs():
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(BATCH, WIDTH, 1, 1, generator=generator, dtype=torch.float64)
    prompts = torch.randn(2, BATCH, 1, WIDTH, generator=generator, dtype=torch.float64)
    return latents, prompts[0], prompts[1]


def test_one_call_gives_the_hand_computed_distance_and_lora_gradient(denoiser):
    """e - e0 = s B A z, so D = mean over samples of |s B A z|^2 / 4 and dD/dB = 2 s^2 B A z z' A' / (4 x samples)."""
    latents, prompt, _ = _inputs()
    distance = ReferenceDistance(denoiser, denoiser, guidance_scale=1.0)
    distance(latents, torch.tensor(0), prompt)
    a, b = (factor.detach() for factor in _factors(denoiser))
    z, scale = latents.flatten(1) + prompt[:, 0], ALPHA / RANK
    moved = scale * z @ a.T @ b.T
    assert torch.allclose(distance.report().distance.double(), moved.square().mean(dim=1), rtol=1e-5)
    distance.report().distance.mean().backward()
    upstream = 2 * moved / (WIDTH * BATCH)
    expected_b = scale * upstream.T @ (z @ a.T)
    expected_a = scale * (upstream @ b).T @ z
    for factor, expected in zip(_factors(denoiser), (expected_a, expected_b)):
        assert torch.allclose(factor.grad, expected, rtol=1e-4)
        assert expected.abs().min() > 1e-4


def _own_loop(a, b, base, latents, unconditional, conditional, guidance, chosen):
    """The rollout and the distance written out without peft, the loop or the class under test."""
    x, distances = latents, []
    for step in range(4):
        predictions, references = [], []
        for prompt in (unconditional, conditional):
            z = x.flatten(1) + prompt[:, 0]
            references.append((z @ base.T).detach())
            predictions.append(z @ base.T + ALPHA / RANK * z @ a.T @ b.T)
        guided, reference = (u + guidance * (c - u) for u, c in (predictions, references))
        if step in chosen:
            distances.append((guided - reference).square().mean(dim=1))
        else:
            guided = guided.detach()
        x = x - 0.3 * guided.view_as(x)
    return torch.stack(distances).mean()


def test_gradient_through_a_guided_rollout_matches_an_independent_one(denoiser):
    latents, unconditional, conditional = _inputs()
    chosen, guidance = {1, 3}, 2.5
    distance = ReferenceDistance(denoiser, denoiser, guidance)
    for _ in denoising_steps(
        distance,
        _Euler(4),
        latents,
        conditional,
        negative=unconditional,
        guidance_scale=guidance,
        gradient_steps=chosen,
    ):
        pass
    assert len(distance.distances) == len(chosen)
    own = torch.autograd.grad(distance.report().distance.mean(), _factors(denoiser))
    leaves = [factor.detach().clone().requires_grad_() for factor in _factors(denoiser)]
    base = denoiser.linear.base_layer.weight.detach()
    other = torch.autograd.grad(
        _own_loop(*leaves, base, latents, unconditional, conditional, guidance, chosen), leaves
    )
    assert all(torch.allclose(x, y, rtol=1e-4) for x, y in zip(own, other))


def test_prediction_distance_applies_guidance_before_squaring():
    prediction = torch.tensor([1.0, 4.0]).view(2, 1, 1, 1)
    reference = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
    # differences 1 and 2, guided 1 + 3 (2 - 1) = 4
    assert prediction_distance(prediction, reference, 3.0).tolist() == [16.0]
    assert prediction_distance(prediction, reference, 1.0).tolist() == [1.0, 4.0]


def test_the_excess_in_norm_is_zero_up_to_the_references_and_its_gradient_shortens():
    reference = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 5.0]])
    prediction = torch.tensor([[6.0, 8.0], [3.0, -4.0], [-3.0, 0.0]], requires_grad=True)
    excess = norm_excess(prediction, reference)
    # norms of 10, 5 and 3 beside 5
    assert excess.tolist() == [1.0, 0.0, 0.0]
    excess.sum().backward()
    # d (n / 5 - 1)^2 = 2 (n / 5 - 1) / 5 along the unit vector
    torch.testing.assert_close(prediction.grad, torch.tensor([[0.24, 0.32], [0.0, 0.0], [0.0, 0.0]]))


def test_other_weights_are_a_reference_in_the_middle_of_a_forward_pass(denoiser):
    """Their answer is a constant, and the gradient is that of a second network with those weights."""
    latents, prompt, _ = _inputs()
    other = copy.deepcopy(denoiser)
    weights = {name: value * 1.5 for name, value in denoiser.named_parameters() if value.requires_grad}
    with torch.no_grad():
        for name, value in other.named_parameters():
            value.copy_(weights.get(name, value))
    own = {name: value.detach().clone() for name, value in denoiser.named_parameters()}
    distance = ReferenceDistance(denoiser, denoiser, 1.0, reference_model=lambda: weights_exchanged(denoiser, weights))
    # two calls, the first of whose graphs lives on when the weights are exchanged again
    answer = distance(distance(latents, torch.tensor(0), prompt), torch.tensor(0), prompt)
    gradients = torch.autograd.grad(distance.report().distance.sum() + answer.sum(), _factors(denoiser))
    assert all(torch.equal(value, own[name]) for name, value in denoiser.named_parameters())
    first = denoiser(latents, None, prompt)
    second = denoiser(first, None, prompt)
    with torch.no_grad():
        constants = other(latents, None, prompt), other(first, None, prompt)
    expected = sum((a - b).square().flatten(1).mean(dim=1).float() for a, b in zip((first, second), constants)) / 2
    torch.testing.assert_close(distance.report().distance, expected)
    expected = torch.autograd.grad(expected.sum() + second.sum(), _factors(denoiser))
    for one, two in zip(gradients, expected):
        # distances are float32
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_the_answer_and_the_rewards_gradient_stay_as_without_it(denoiser):
    latents, prompt, _ = _inputs()
    latents.requires_grad_()
    plain = denoiser(latents, torch.tensor(0), prompt)
    wrapped = ReferenceDistance(denoiser, denoiser, 1.0)(latents, torch.tensor(0), prompt)
    assert torch.equal(plain, wrapped)
    inputs = [latents, *_factors(denoiser)]
    gradients = [torch.autograd.grad(answer.sin().sum(), inputs) for answer in (plain, wrapped)]
    assert all(torch.equal(x, y) for x, y in zip(*gradients))


def test_nothing_is_measured_without_gradient(denoiser):
    latents, prompt, _ = _inputs()
    distance = ReferenceDistance(denoiser, denoiser, 1.0)
    with torch.no_grad():
        distance(latents, torch.tensor(0), prompt)
    with pytest.raises(ValueError, match="reference_weight"):
        distance.report()


def test_an_untrained_lora_is_at_distance_zero(denoiser):
    _factors(denoiser)[1].data.zero_()
    latents, prompt, _ = _inputs()
    distance = ReferenceDistance(denoiser, denoiser, 1.0)
    distance(latents, torch.tensor(0), prompt)
    assert distance.report().distance.tolist() == [0.0] * BATCH


def test_adapters_are_off_inside_only_and_the_weights_keep_requiring_gradient(denoiser):
    latents, prompt, _ = _inputs()
    base = (latents.flatten(1) + prompt[:, 0]) @ denoiser.linear.base_layer.weight.T
    with pytest.raises(RuntimeError), adapters_disabled(denoiser):
        assert all(factor.requires_grad for factor in _factors(denoiser))
        assert torch.allclose(denoiser(latents, None, prompt).flatten(1), base)
        raise RuntimeError
    assert not torch.allclose(denoiser(latents, None, prompt).flatten(1), base)
    # inside a wider one they stay off at its end
    with adapters_disabled(denoiser):
        with adapters_disabled(denoiser):
            pass
        assert torch.allclose(denoiser(latents, None, prompt).flatten(1), base)


def test_the_mini_unets_reference_is_the_model_before_training(random_mini_model):
    from ubgen_pipeline.models.loading import load_pipeline
    from ubgen_training.lora.adapter import LoraSettings
    from ubgen_training.sampler.sampler_model import SamplerModel

    pipeline = load_pipeline(random_mini_model)
    with torch.no_grad():
        given = pipeline.batch(pipeline.encode(["circle", "star"]))
    inputs = (torch.randn(2, 4, 16, 16), torch.tensor(500), given)
    with torch.no_grad():
        before = pipeline.predict(*inputs)
    sampler = SamplerModel(pipeline, ["circle", "star"], LoraSettings(2))
    with torch.no_grad():
        for name, weight in sampler.denoiser_network.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    # block checkpointing runs the blocks again in the backward pass, which must find the adapters on
    sampler.activation_checkpointing_enable()
    sampler.denoiser_network.train()
    distance = ReferenceDistance(pipeline.predict, sampler.denoiser_network, 1.0)
    after = distance(*inputs)
    expected = (after - before).square().mean(dim=(1, 2, 3))
    assert torch.allclose(distance.report().distance, expected, rtol=1e-4)
    trained = [weight for weight in sampler.denoiser_network.parameters() if weight.requires_grad]
    own = torch.autograd.grad(distance.report().distance.sum(), trained)
    other = torch.autograd.grad((pipeline.predict(*inputs) - before).square().mean(dim=(1, 2, 3)).sum(), trained)
    assert all(torch.allclose(x, y, rtol=1e-3, atol=1e-6) for x, y in zip(own, other))
    assert min(gradient.norm() for gradient in own) > 0

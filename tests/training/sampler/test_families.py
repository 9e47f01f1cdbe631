"""Every family of the registry as a sampler in training: gradients, and the LoRA's way into plain diffusers."""

import numpy as np
import pytest
import torch

from support.family_models import FAMILY_NAMES, QUICK, own_pipeline, tiny_pipeline
from ubgen_pipeline.latent_denoising import check_jump
from ubgen_pipeline.models.lora_loading import load_lora
from ubgen_training.lora.adapter import LoraSettings, lora_layers
from ubgen_training.lora.lora_files import load_lora_into, save_lora
from ubgen_training.sampler.gradient_steps import GradientSteps
from ubgen_training.sampler.replays import DirectAlign, Leap
from ubgen_training.sampler.sampler_model import SamplerModel, SamplingSettings

PROMPTS = ["a circle", "a photo of a star"]
LABELS, SEEDS = torch.tensor([1, 0]), [5, 6]


def shake(network):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight_name, weight in network.named_parameters():
            if "lora_B" in weight_name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))


@pytest.fixture(params=FAMILY_NAMES)
def name(request):
    return request.param


def build(name, **sampling):
    settings = SamplingSettings(
        **{"num_inference_steps": 2, "guidance_scale": 3.0, "height": 32, "width": 32, **sampling}
    )
    sampler = SamplerModel(own_pipeline(name, tiny_pipeline(name)), PROMPTS, LoraSettings(2), settings)
    shake(sampler.denoiser_network)
    return sampler


def test_a_reward_reaches_every_matrix_and_its_slope_is_right(name):
    sampler = build(name)
    weights = [weight for weight in sampler.parameters() if weight.requires_grad]
    assert len(weights) == 2 * len(lora_layers(sampler.denoiser_network))

    def reward():
        images = sampler(LABELS, SEEDS)
        return (images * torch.linspace(-1, 1, images.numel()).reshape(images.shape)).sum()

    gradients = torch.autograd.grad(reward(), weights, allow_unused=True)
    assert sum(gradient is not None and bool(gradient.norm() > 0) for gradient in gradients) > 0.8 * len(weights)
    norm = torch.stack([gradient.norm() for gradient in gradients if gradient is not None]).norm()
    step, rewards = 0.005 / norm, []
    with torch.no_grad():
        for sign in (1, -2):
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    weight.add_(sign * step * gradient)
            rewards.append(reward())
    # along the gradient the slope is its norm
    torch.testing.assert_close((rewards[0] - rewards[1]) / 0.01, norm, rtol=0.05, atol=0)


def test_the_rollout_of_training_is_the_pipelines_and_jumps_where_one_is_known(name):
    sampler = build(name)
    pipeline = sampler.pipeline
    with torch.no_grad():
        images = sampler(LABELS, SEEDS).clamp(0, 1)
        scale = {} if pipeline.guidance == "none" else {"guidance_scale": 3.0}
        drawn = pipeline(
            ["x", "y"],
            prompts=[PROMPTS[label] for label in LABELS],
            seeds=SEEDS,
            output_type="pt",
            **QUICK,
            **scale,
        )
        torch.testing.assert_close(images, drawn.images, rtol=0, atol=1e-3)
        sampler.speed_up_rollouts()
        # no step carries gradient, so the other denoiser takes all of them
        torch.testing.assert_close(sampler(LABELS, SEEDS).clamp(0, 1), images, rtol=0, atol=1e-3)
    try:
        check_jump(pipeline.scheduler)
    except ValueError:
        return
    weights = [weight for weight in sampler.parameters() if weight.requires_grad]
    for gradient_steps in (
        GradientSteps(frozenset({0}), stop_at=0),
        GradientSteps(frozenset({0, 1}), replay=Leap(0.5)),
        GradientSteps(frozenset({1}), replay=DirectAlign(), equalise=True),
    ):
        found = sampler(LABELS, SEEDS, gradient_steps)
        if isinstance(gradient_steps.replay, Leap):
            torch.testing.assert_close(found.detach().clamp(0, 1), images, rtol=0, atol=1e-3)
        gradients = torch.autograd.grad(found.sum(), weights, allow_unused=True)
        assert any(gradient is not None and gradient.norm() > 0 for gradient in gradients)


def test_the_lora_goes_into_plain_diffusers_and_back(name, tmp_path):
    sampler = build(name)
    file = save_lora(sampler.pipeline, tmp_path)
    assert file.name == sampler.pipeline.lora_file
    other = build(name)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.requires_grad:
                weight.zero_()
    load_lora_into(other.pipeline, tmp_path)
    trained = [weight for weight in sampler.parameters() if weight.requires_grad]
    again = [weight for weight in other.parameters() if weight.requires_grad]
    assert all(torch.equal(first, second) for first, second in zip(trained, again, strict=True))
    drawn = {}
    for kind in ("trained", "loaded", "plain"):
        pipeline = sampler.pipeline if kind == "trained" else own_pipeline(name, tiny_pipeline(name))
        if kind == "loaded":
            load_lora(pipeline, tmp_path)
        drawn[kind] = pipeline(["circle"], output_type="np", **QUICK).images
    np.testing.assert_allclose(drawn["loaded"], drawn["trained"], rtol=0, atol=1e-4)
    assert np.abs(drawn["loaded"] - drawn["plain"]).max() > 1e-4
    stock = tiny_pipeline(name)
    if hasattr(stock, "load_lora_weights"):
        # our pipeline on the networks that plain diffusers loaded the LoRA into
        stock.load_lora_weights(tmp_path)
        images = own_pipeline(name, stock)(
            ["circle"], num_inference_steps=2, height=32, width=32, output_type="np"
        ).images
        np.testing.assert_allclose(images, drawn["trained"], rtol=0, atol=1e-4)


def test_activation_checkpointing_changes_no_gradient(name):
    def gradient(checkpointing):
        sampler = build(name)
        if checkpointing:
            sampler.activation_checkpointing_enable()
            sampler.train()
        images = sampler(LABELS, SEEDS, GradientSteps(frozenset({1})))
        weights = [weight for weight in sampler.parameters() if weight.requires_grad]
        found = torch.autograd.grad(images.square().mean(), weights, allow_unused=True)
        return torch.cat([one.flatten() for one in found if one is not None])

    plain, recomputed = gradient(False), gradient(True)
    assert plain.norm() > 0
    assert (plain - recomputed).norm() < 1e-4 * plain.norm()

"""The full loss: its value is the paper's sum, its LoRA gradient that of ordinary back-propagation, term by term."""

import pytest
import torch
from torch import nn

from support.tiny_clip import build_tiny_clip
from ubgen_pipeline.models.clip_encoders import load_clip_encoder
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.lora.adapter import LoraSettings
from ubgen_training.rewards.clip_alignment import ClipAlignmentReward
from ubgen_training.rewards.quality import QualityReward
from ubgen_training.sampler.gradient_steps import GradientSteps
from ubgen_training.sampler.sampler_model import SamplerModel, SamplingSettings
from ubgen_training.ubgen.adversarial_term import AdversarialTerm
from ubgen_training.ubgen.ubgen_loss import UbGenLoss

NAMES = ["circle", "star", "ring"]
LABELS, SEEDS = torch.tensor([0, 2]), [11, 12]
WEIGHTS = {"adversarial": 0.7, "clip_alignment": 1.0, "quality": 0.1}


@pytest.fixture(scope="module")
def sampler(random_mini_model):
    pipeline = load_pipeline(random_mini_model, scheduler="ddpm")
    sampler = SamplerModel(pipeline, NAMES, LoraSettings(4), SamplingSettings(4, 2.0), seed=3)
    torch.manual_seed(0)
    for name, parameter in sampler.named_parameters():
        # B starts at zero, where A's gradient vanishes
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return sampler


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    encoder = load_clip_encoder(build_tiny_clip(tmp_path_factory.mktemp("clip")))
    torch.manual_seed(0)
    scorer = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 5))
    return encoder, ClipAlignmentReward(encoder, NAMES), QualityReward(scorer)


def _loss(parts, adversarial_weight=0.7, reward_weights=(1.0, 0.1)):
    encoder, alignment, quality = parts
    term = AdversarialTerm(encoder.encode_texts(NAMES), seed=5)
    return UbGenLoss(
        [alignment, quality],
        reward_weights,
        encoder=encoder,
        adversarial=term,
        adversarial_weight=adversarial_weight,
    )


def _lora_gradient(sampler, loss):
    parameters = [p for p in sampler.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def _reference_terms(sampler, parts):
    """Each weighted term by plain back-propagation, from the definitions."""
    encoder, alignment, quality = parts
    images = sampler(LABELS, SEEDS, GradientSteps(frozenset({1, 3})))
    features = encoder.encode_images(images)
    term = AdversarialTerm(encoder.encode_texts(NAMES), seed=5)
    text = term.choose_text_features(LABELS, torch.Generator().manual_seed(9))
    names = [NAMES[i] for i in LABELS]
    return {
        "adversarial": WEIGHTS["adversarial"] * term.generator_loss(features, text).mean(),
        "clip_alignment": WEIGHTS["clip_alignment"] * (1 - alignment(images, names, LABELS)).mean(),
        "quality": WEIGHTS["quality"] * (1 - quality(images, names, LABELS)).mean(),
    }


def _call(loss, images):
    names = [NAMES[i] for i in LABELS]
    return loss(images, names, LABELS, generator=torch.Generator().manual_seed(9), seeds=SEEDS)


def test_value_and_gradient_are_those_of_the_sum(sampler, parts):
    report = _call(_loss(parts), sampler(LABELS, SEEDS, GradientSteps(frozenset({1, 3}))))
    expected = sum(_reference_terms(sampler, parts).values())
    assert report.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    own, reference = _lora_gradient(sampler, report.loss), _lora_gradient(sampler, expected)
    assert reference.norm() > 0
    assert (own - reference).norm() < 1e-4 * reference.norm()


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_each_term_alone_gives_its_own_lora_gradient(sampler, parts, name):
    rewards = tuple(WEIGHTS[n] if n == name else 0.0 for n in ("clip_alignment", "quality"))
    loss = _loss(
        parts, adversarial_weight=WEIGHTS["adversarial"] if name == "adversarial" else 0.0, reward_weights=rewards
    )
    report = _call(loss, sampler(LABELS, SEEDS, GradientSteps(frozenset({1, 3}))))
    own = _lora_gradient(sampler, report.loss)
    reference = _lora_gradient(sampler, _reference_terms(sampler, parts)[name])
    assert reference.norm() > 0
    assert (own - reference).norm() < 1e-4 * reference.norm()
    assert report.metrics[f"reward_grad_norms/{name}"] > 0
    others = [value for key, value in report.metrics.items() if "grad_norms" in key and not key.endswith(name)]
    assert others == [0.0, 0.0]


def test_rewards_and_discriminator_are_logged_and_the_discriminator_steps(sampler, parts):
    loss = _loss(parts)
    before = [p.clone() for p in loss.adversarial.discriminator.parameters()]
    report = _call(loss, sampler(LABELS, SEEDS, GradientSteps(frozenset({1}))))
    for name in ("rewards/clip_alignment", "rewards/quality", "losses/adversarial", "discriminator/accuracy"):
        assert name in report.metrics
    assert any(not torch.equal(a, b) for a, b in zip(before, loss.adversarial.discriminator.parameters()))


def test_only_the_chosen_steps_carry_gradient(sampler):
    """More gradient steps change the gradient; the images stay the same."""
    parameters = [p for p in sampler.parameters() if p.requires_grad]
    one, all_steps = sampler(LABELS, SEEDS, GradientSteps(frozenset({3}))), sampler(LABELS, SEEDS)
    assert torch.equal(one, all_steps)
    gradients = [torch.autograd.grad(images.square().mean(), parameters) for images in (one, all_steps)]
    assert any(not torch.allclose(a, b) for a, b in zip(*gradients))
    assert all(p.dtype == torch.float32 for p in parameters)


def test_frozen_parts_are_not_registered(sampler):
    names = [name for name, _ in sampler.named_parameters()]
    assert all(name.startswith("denoiser_network.") for name in names)
    assert all("lora" in name for name, parameter in sampler.named_parameters() if parameter.requires_grad)


def test_activation_checkpointing_changes_no_gradient(random_mini_model):
    def gradient(checkpointing):
        pipeline = load_pipeline(random_mini_model, scheduler="ddpm")
        sampler = SamplerModel(pipeline, NAMES, LoraSettings(2), SamplingSettings(3, 2.0), seed=3)
        if checkpointing:
            sampler.activation_checkpointing_enable(every_n_layers=1, offload=False)
        return _lora_gradient(sampler, sampler(LABELS, SEEDS, GradientSteps(frozenset({0, 2}))).square().mean())

    plain, recomputed = gradient(False), gradient(True)
    assert plain.norm() > 0
    assert (plain - recomputed).norm() < 1e-5 * plain.norm()


def test_two_rewards_of_one_name_are_refused(parts):
    with pytest.raises(ValueError, match="two rewards of one name"):
        UbGenLoss([parts[2], parts[2]])

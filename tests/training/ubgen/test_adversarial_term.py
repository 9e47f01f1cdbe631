"""The adversarial term: which text it draws, Eq. 5 and its gradients, the discriminator's step, and its state."""

import math
from collections import Counter

import pytest
import torch

from ubgen_training.checkpoints.state import load_state, save_state
from ubgen_training.ubgen.adversarial_term import AdversarialSettings, AdversarialTerm
from ubgen_training.ubgen.discriminator import gradient_penalty


def _term(num_classes=5, width=4, **kwargs):
    torch.manual_seed(0)
    average = kwargs.pop("average", None)
    return AdversarialTerm(torch.randn(num_classes, width), AdversarialSettings(**kwargs), seed=1, average=average)


def _drawn(term, labels, generator):
    features = term.choose_text_features(labels, generator)
    return [int((term.text_features == row).all(dim=1).nonzero()) for row in features]


def test_text_is_of_any_other_class_and_never_of_the_own():
    term, generator = _term(), torch.Generator().manual_seed(0)
    counts = Counter()
    for _ in range(400):
        counts.update(_drawn(term, torch.tensor([2, 2]), generator))
    assert set(counts) == {0, 1, 3, 4}
    # 800 draws over four classes: 200 each, 6 standard deviations are 74
    assert all(abs(count - 200) < 74 for count in counts.values())


def test_the_released_codes_draw_sees_only_the_first_classes():
    term, generator = _term(num_classes=50, text_choice="batch_permutation"), torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(20):
        seen |= set(_drawn(term, torch.tensor([30, 31, 32]), generator))
    assert seen == {0, 1, 2}


def test_generator_loss_is_equation_5():
    term, images, texts = _term(), torch.randn(3, 4), torch.randn(3, 4)
    expected = torch.log(torch.sigmoid(term.discriminator(texts)))
    expected = expected + torch.log(1 - torch.sigmoid(term.discriminator(images)))
    assert torch.allclose(term.generator_loss(images, texts), expected, atol=1e-6)


def test_non_saturating_loss_is_minus_log_d():
    term, images = _term(form="non_saturating"), torch.randn(3, 4)
    expected = -torch.log(torch.sigmoid(term.discriminator(images)))
    assert torch.allclose(term.generator_loss(images, images), expected, atol=1e-6)


@pytest.mark.parametrize("form", ["minimax", "non_saturating"])
def test_descending_the_generator_loss_makes_images_look_like_text(form):
    term = _term(form=form)
    images, texts = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    (gradient,) = torch.autograd.grad(term.generator_loss(images, texts).sum(), images)
    before, after = term.discriminator(images), term.discriminator(images - 0.01 * gradient)
    assert (after > before).all()


def test_the_discriminator_learns_to_separate_and_the_images_get_no_gradient():
    term, generator = _term(learning_rate=1e-2), torch.Generator().manual_seed(0)
    images = (torch.randn(8, 4) + 4).requires_grad_(True)
    labels = torch.arange(8) % 5
    reports = [term.update_discriminator(images, term.choose_text_features(labels, generator)) for _ in range(150)]
    assert reports[0].loss == pytest.approx(2 * math.log(2), abs=1.5)
    assert reports[-1].accuracy == 1.0
    assert reports[-1].loss < 0.2 < reports[0].loss
    assert reports[-1].text_logit > 0 > reports[-1].image_logit
    assert images.grad is None


def test_generator_gradients_left_on_the_discriminator_do_not_reach_its_step():
    clean, dirty = _term(), _term()
    images, texts = torch.randn(3, 4), torch.randn(3, 4)
    dirty.generator_loss(images, texts).sum().backward()
    assert clean.update_discriminator(images, texts) == dirty.update_discriminator(images, texts)
    for own, other in zip(clean.discriminator.parameters(), dirty.discriminator.parameters()):
        assert torch.equal(own, other)


def test_gradients_are_averaged_before_clipping_and_stepping():
    """Two ranks whose gradients are averaged step as one process on both halves."""
    torch.manual_seed(3)
    images, texts = torch.randn(4, 4), torch.randn(4, 4)
    single = _term(learning_rate=1e-2)
    single.update_discriminator(images, texts)
    gradients = []
    for half in (slice(0, 2), slice(2, 4)):
        recorded = []
        rank = _term(
            learning_rate=1e-2, average=lambda gradient, keep=recorded: keep.append(gradient.clone()) or gradient
        )
        rank.update_discriminator(images[half], texts[half])
        gradients.append(recorded)
    means = iter([(a + b) / 2 for a, b in zip(*gradients)])
    rank = _term(learning_rate=1e-2, average=lambda gradient: next(means))
    rank.update_discriminator(images[:2], texts[:2])
    for own, other in zip(single.discriminator.parameters(), rank.discriminator.parameters()):
        assert torch.allclose(own, other, atol=1e-6)


def test_state_survives_a_file_and_goes_on_bit_equal(tmp_path):
    images, texts = torch.randn(6, 3, 4), torch.randn(6, 3, 4)
    straight, first, second = _term(), _term(), _term()
    for step in range(3):
        straight.update_discriminator(images[step], texts[step])
        first.update_discriminator(images[step], texts[step])
    save_state(first.state_dict(), tmp_path / "adversarial.safetensors")
    second.load_state_dict(load_state(tmp_path / "adversarial.safetensors"))
    for step in range(3, 6):
        straight.update_discriminator(images[step], texts[step])
        second.update_discriminator(images[step], texts[step])
    for own, other in zip(straight.discriminator.parameters(), second.discriminator.parameters()):
        assert torch.equal(own, other)


def test_state_of_other_widths_is_refused():
    with pytest.raises(ValueError, match="other widths"):
        _term(hidden_dim=8).load_state_dict(_term(hidden_dim=4).state_dict())


def test_one_class_and_unknown_switches_are_named():
    with pytest.raises(ValueError, match="text_features holds 1 class"):
        _term(num_classes=1)
    with pytest.raises(ValueError, match="form is 'hinge'"):
        _term(form="hinge")
    with pytest.raises(ValueError, match="text_choice is 'any'"):
        _term(text_choice="any")


def test_forms_by_name_reach_the_discriminator():
    paper, released = (_term(discriminator_form=form).discriminator.layers for form in ("paper", "released"))
    assert (paper[0].out_features, released[0].out_features) == (256, 3)
    assert (type(paper[1]).__name__, type(released[1]).__name__) == ("ReLU", "LeakyReLU")


def test_instance_noise_falls_linearly_with_the_updates_and_then_stays_away():
    term, generator = _term(noise=2.0, noise_steps=4), torch.Generator().manual_seed(0)
    images, texts = torch.randn(3, 4), torch.randn(3, 4)
    stds = []
    for _ in range(6):
        stds.append(term.noise_std)
        term.update_discriminator(images, texts, generator)
    assert stds == [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]
    # without noise nothing is drawn, so that the rest of the batch's draws stay the same
    before = generator.get_state()
    term.update_discriminator(images, texts, generator)
    assert torch.equal(generator.get_state(), before)
    assert _term(noise=2.0).noise_std == 2.0


def test_instance_noise_has_its_deviation_and_reaches_every_feature():
    images, texts = torch.zeros(5000, 4), torch.ones(5000, 4)
    seen = []
    term = _term(noise=0.5)
    term.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    term.update_discriminator(images, texts, torch.Generator().manual_seed(0))
    term.generator_loss(images, texts, torch.Generator().manual_seed(1))
    assert len(seen) == 4
    for features, mean in zip(seen, (1, 0, 0, 1)):
        # 20,000 draws: a tenth of a deviation is 14 standard errors of the mean
        assert features.mean().item() == pytest.approx(mean, abs=0.05)
        assert features.std().item() == pytest.approx(0.5, abs=0.02)
    assert len({features.sub(features.round()).sum().item() for features in seen}) == 4


def test_the_penalty_is_part_of_the_step_and_not_of_the_loss():
    images, texts = torch.randn(6, 4), torch.randn(6, 4)
    plain, penalised = _term(learning_rate=1e-2), _term(learning_rate=1e-2, r1=10.0)
    first, second = (term.update_discriminator(images, texts) for term in (plain, penalised))
    assert first.loss == second.loss and first.r1_penalty == 0 < second.r1_penalty
    for _ in range(100):
        first, second = (term.update_discriminator(images, texts) for term in (plain, penalised))
    # it holds the gradient at text features down
    with torch.enable_grad():
        steep, flat = (gradient_penalty(term.discriminator, texts).item() for term in (plain, penalised))
    assert flat < 0.5 * steep


def test_a_resumed_term_goes_on_with_its_noise(tmp_path):
    images, texts = torch.randn(4, 3, 4), torch.randn(4, 3, 4)
    settings = {"noise": 1.0, "noise_steps": 8, "r1": 1.0}
    straight, first, second = (_term(**settings) for _ in range(3))

    def update(term, step):
        return term.update_discriminator(images[step], texts[step], torch.Generator().manual_seed(step))

    for step in range(2):
        update(straight, step), update(first, step)
    save_state(first.state_dict(), tmp_path / "adversarial.safetensors")
    second.load_state_dict(load_state(tmp_path / "adversarial.safetensors"))
    assert second.noise_std == 0.75
    for step in range(2, 4):
        assert update(straight, step) == update(second, step)


@pytest.mark.parametrize(
    "setting, named",
    [
        ({"noise": -1.0}, "^noise is -1.0"),
        ({"noise_steps": 0}, "^noise_steps is 0"),
        ({"r1": -1.0}, "^r1 is -1.0"),
        ({"discriminator_form": "mine"}, "form is 'mine'"),
    ],
)
def test_options_out_of_range_are_named(setting, named):
    with pytest.raises(ValueError, match=named):
        _term(**setting)

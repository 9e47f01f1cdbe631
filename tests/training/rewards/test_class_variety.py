"""The reward of variety within a class, and batches that hold several images of a class."""

import json
from importlib import import_module
from itertools import chain

import pytest
import torch
from torch.nn.functional import normalize

from support.training_worker import build_trainer
from ubgen_training.reward_training.build_rewards import build_reward, needs_clip_encoder, probe_rewards
from ubgen_training.reward_training.config import SamplerConfig
from ubgen_training.rewards.class_variety import ClassVarietyReward
from ubgen_training.rewards.reward_functions import check_partners, partner_share
from ubgen_training.ubgen.ubgen_config import UbGenConfig

NAMES = ["circle", "star", "ring"]
WIDTH = 6


class _Encoder:
    """Texts with fixed random features; images are their own."""

    texts = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(5))

    def encode_images(self, images):
        return images.flatten(1)[:, :WIDTH]

    def encode_texts(self, texts):
        return self.texts[: len(texts)]


def _features(count, seed=0, dtype=torch.float32):
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _reward(features, labels):
    return ClassVarietyReward(_Encoder(), NAMES)(None, (), torch.tensor(labels), image_features=features)


def _by_definition(features, labels):
    """The definition as two loops over images, on float64."""
    projected = []
    for feature, label in zip(features.double(), labels):
        text = _Encoder.texts[label].double() / _Encoder.texts[label].double().norm()
        rest = feature - torch.outer(text, text) @ feature
        projected.append(rest / rest.norm())
    values = []
    for i, label in enumerate(labels):
        distances = [
            (projected[i] - projected[j]).pow(2).sum() / 2 for j in range(len(labels)) if j != i and labels[j] == label
        ]
        values.append(torch.stack(distances).mean() if distances else projected[i].sum() * 0)
    return torch.stack(values)


LABELS = [0, 1, 0, 2, 1, 0]


def test_values_are_those_of_the_definition():
    features = _features(6)
    values = _reward(features, LABELS)
    torch.testing.assert_close(values.double(), _by_definition(features, LABELS), atol=1e-6, rtol=1e-5)
    # the image that is alone of its class, and no other
    assert [value == 0 for value in values.tolist()] == [label == 2 for label in LABELS]


def test_the_gradient_is_that_of_the_definition():
    ours, reference = _features(6).requires_grad_(), _features(6).requires_grad_()
    weights = torch.tensor([1.0, 2, 3, 4, 5, 6])
    (_reward(ours, LABELS) * weights).sum().backward()
    (_by_definition(reference, LABELS) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, reference.grad, atol=1e-6, rtol=1e-4)
    assert not ours.grad[3].any() and ours.grad[0].any()


def test_nothing_is_gained_along_the_class_text():
    features = _features(6).requires_grad_()
    _reward(features, LABELS).sum().backward()
    along = (features.grad * normalize(_Encoder.texts, dim=1)[LABELS]).sum(1)
    assert along.abs().max() < 1e-6 < features.grad.norm(dim=1)[0]
    moved = features.detach() + torch.tensor([[0.5], [-0.3], [2.0], [1.0], [0.7], [-1.0]]) * _Encoder.texts[LABELS]
    torch.testing.assert_close(_reward(moved, LABELS), _reward(features.detach(), LABELS), atol=1e-6, rtol=1e-4)


def test_equal_images_of_a_class_give_nothing_and_opposite_ones_two():
    feature = _features(1)
    text = normalize(_Encoder.texts[:1], dim=1)
    rest = feature - (feature @ text.T) * text
    assert _reward(torch.cat([feature, feature]), [0, 0]).abs().max() < 1e-6
    torch.testing.assert_close(_reward(torch.cat([text + rest, text - 3 * rest]), [0, 0]), torch.tensor([2.0, 2.0]))
    # of other classes, however far apart, it does not ask anything
    assert _reward(torch.cat([feature, -feature]), [0, 1]).tolist() == [0, 0]


def test_a_feature_on_its_class_text_has_a_finite_gradient():
    features = torch.cat([_Encoder.texts[:1], _features(1)]).requires_grad_()
    _reward(features, [0, 0]).sum().backward()
    assert torch.isfinite(features.grad).all() and features.grad.norm() < 1e3


def test_it_reads_the_images_where_no_features_are_given():
    images = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    reward = ClassVarietyReward(_Encoder(), NAMES)
    given = reward(images, (), torch.tensor([0, 0, 1, 1]), image_features=images.flatten(1)[:, :WIDTH])
    assert torch.equal(reward(images, (), torch.tensor([0, 0, 1, 1])), given) and given.min() > 0
    with pytest.raises(ValueError, match=r"clip_prompt is 'photo'.*\{name\}"):
        ClassVarietyReward(_Encoder(), NAMES, "photo")


def test_its_name_builds_it_and_asks_for_a_clip(tmp_path):
    config = SamplerConfig(output_dir=str(tmp_path), use_cpu=True)
    assert needs_clip_encoder(["quality", "class_variety"])
    reward = build_reward("class_variety", config, _Encoder(), NAMES)
    assert isinstance(reward, ClassVarietyReward) and reward.reads_whole_batch
    with pytest.raises(ValueError, match="'class_variety', but no CLIP encoder was loaded"):
        build_reward("class_variety", config, None, NAMES)


def test_the_probe_offers_pairs_to_what_reads_the_whole_batch(tmp_path):
    seen = []

    def plain(images, class_names, labels, *, seeds, **_):
        seen.append((list(class_names), labels.tolist(), seeds))
        return images.mean(dim=(1, 2, 3))

    reward = ClassVarietyReward(_Encoder(), NAMES)
    probe_rewards([reward, plain], NAMES, height=4, width=4, encoder=_Encoder())
    assert seen == [(["circle", "ring"], [0, 2], (0, 1))]
    plain.reads_whole_batch = True
    probe_rewards([plain], NAMES, height=4, width=4)
    assert seen[1] == (["circle", "circle", "ring", "ring"], [0, 0, 2, 2], (0, 1, 2, 3))

    def flat(images, class_names, labels, **_):
        return 0 * images.mean(dim=(1, 2, 3))

    flat.reads_whole_batch = True
    with pytest.raises(ValueError, match="'flat' has no gradient"):
        probe_rewards([flat], NAMES, height=4, width=4)


@pytest.mark.parametrize(("classes", "repeats", "batch"), [(10, 10, 20), (3, 2, 3), (4, 3, 1), (5, 1, 4), (2, 2, 4)])
def test_the_share_of_images_with_a_partner_is_that_of_draws(classes, repeats, batch):
    labels = torch.arange(classes).repeat(repeats)
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(1000):
        drawn = labels[torch.randperm(len(labels), generator=generator)[:batch]]
        found += ((drawn[:, None] == drawn).sum(1) > 1).tolist()
    assert partner_share(classes, repeats, batch) == pytest.approx(sum(found) / len(found), abs=0.03)


def test_batches_without_partners_are_refused_and_with_few_warned_of(recwarn):
    reward = ClassVarietyReward(_Encoder(), NAMES)
    with pytest.raises(ValueError, match=r"'class_variety'.*no batch holds two; set images_per_class_in_batch to 2"):
        check_partners([reward], 1000, 1, 4, 1)
    with pytest.raises(ValueError, match="no batch holds two"):
        check_partners([reward], 10, 10, 1, 1)
    for harmless in ([reward], 10, 10, 20, 1), ([reward], 1000, 2, 4, 2), ([lambda *_: None], 1000, 1, 4, 1):
        check_partners(*harmless)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="only 0% of the images"):
        check_partners([reward], 1000, 2, 4, 1)


@pytest.mark.parametrize("settings", [{"class_repeats": 3}, {"per_device_train_batch_size": 3}, {}])
def test_groups_must_fit_batch_and_epoch(tmp_path, settings):
    fitting = {"class_repeats": 4, "per_device_train_batch_size": 4, "images_per_class_in_batch": 2}
    if not settings:
        fitting = {**fitting, "images_per_class_in_batch": 0}
    with pytest.raises(ValueError, match="images_per_class_in_batch is"):
        UbGenConfig(output_dir=str(tmp_path), use_cpu=True, **{**fitting, **settings})


def test_a_run_trains_with_it_on_groups(random_mini_model, tmp_path):
    output = tmp_path / "out"
    flags = ["--model_name_or_path", random_mini_model, "--clip_model", "mini", "--class_names", *NAMES]
    flags += ["--reward_funcs", "class_variety", "--adversarial_weight", "0.1", "--discriminator_warmup_steps", "1"]
    flags += ["--class_repeats", "2", "--images_per_class_in_batch", "2", "--per_device_train_batch_size", "2"]
    flags += ["--num_inference_steps", "2", "--num_gradient_steps", "1", "--max_steps", "1", "--heldout_steps", "0"]
    flags += ["--guidance_scale", "1", "--lora_rank", "2", "--use_cpu", "--output_dir", str(output)]
    assert import_module("ubgen_training.ubgen.command").main(flags) == 0
    (logged, *_) = json.loads((output / "checkpoint-1" / "trainer_state.json").read_text())["log_history"][-1:]
    assert logged["rewards/class_variety"] > 0 and logged["reward_grad_norms/class_variety"] > 0


def _batches(trainer):
    return [batch["labels"].tolist() for batch in trainer.get_train_dataloader()]


def test_groups_stay_together_and_an_epoch_shows_each_class_as_often(random_mini_model, tmp_path):
    settings = {"class_repeats": 6, "per_device_train_batch_size": 4, "heldout_steps": 0}
    alone = _batches(build_trainer(random_mini_model, tmp_path / "alone", **settings))
    grouped = _batches(build_trainer(random_mini_model, tmp_path / "two", images_per_class_in_batch=2, **settings))
    assert [len(batch) for batch in grouped] == [len(batch) for batch in alone] == [4, 4, 4, 4, 2]
    assert sorted(chain(*grouped)) == sorted(chain(*alone)) == sorted([0, 1, 2] * 6)
    assert all(first == second for batch in grouped for first, second in zip(batch[::2], batch[1::2]))
    assert any(first != second for batch in alone for first, second in zip(batch[::2], batch[1::2]))
    # shuffled, not in the order of the list
    assert [batch[0] for batch in grouped] != sorted(batch[0] for batch in grouped)

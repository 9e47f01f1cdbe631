"""The clipped objective and the advantages against plain numpy, and the sign of the gradient."""

from collections import deque

import numpy as np
import pytest
import torch

from ubgen_training.ddpo.objective import ClassStatistics, group_advantages, policy_loss

CLIP = 0.2


def _reference(log_probs, old, advantages, kl, kl_weight):
    losses = []
    for new, before, advantage in zip(log_probs, old, advantages):
        ratio = np.exp(new - before)
        losses.append(-min(ratio * advantage, min(max(ratio, 1 - CLIP), 1 + CLIP) * advantage))
    return np.mean(losses) + kl_weight * np.mean(kl)


def test_loss_is_the_plain_formula():
    generator = np.random.default_rng(0)
    log_probs, old, advantages, kl = generator.normal(scale=0.3, size=(4, 64))
    report = policy_loss(
        *(torch.tensor(values) for values in (log_probs, old, advantages)),
        clip_range=CLIP,
        kl=torch.tensor(kl),
        kl_weight=0.7,
    )
    assert report.loss.item() == pytest.approx(_reference(log_probs, old, advantages, kl, 0.7))
    np.testing.assert_allclose(report.ratio, np.exp(log_probs - old))
    outside = np.where(advantages > 0, report.ratio > 1 + CLIP, report.ratio < 1 - CLIP)
    assert np.array_equal(report.clipped, outside) and outside.any()


@pytest.mark.parametrize(
    "log_ratio, advantage, gradient",
    [
        (0.0, 1.5, -1.5),  # a good step becomes likelier
        (0.0, -1.5, 1.5),  # a bad one less likely
        (1.0, 1.5, 0.0),  # likely enough already
        (-1.0, -1.5, 0.0),
        (1.0, -1.5, 1.5 * np.e),  # a bad step that became likelier is always pushed back
        (-1.0, 1.5, -1.5 / np.e),
    ],
)
def test_gradient_of_one_pair(log_ratio, advantage, gradient):
    log_probs = torch.tensor([log_ratio - 3.0], dtype=torch.float64, requires_grad=True)
    old, advantages = torch.tensor([-3.0]).double(), torch.tensor([advantage]).double()
    policy_loss(log_probs, old, advantages, clip_range=CLIP).loss.backward()
    assert log_probs.grad.item() == pytest.approx(gradient)


def test_equal_log_probabilities_give_a_ratio_of_exactly_one():
    log_probs = torch.randn(5, generator=torch.Generator().manual_seed(0))
    report = policy_loss(log_probs, log_probs, torch.ones(5), clip_range=CLIP)
    assert torch.equal(report.ratio, torch.ones(5)) and report.loss.item() == -1.0 and not report.clipped.any()


def _tracked(batches, window, min_count):
    """The rule spelt out: one deque per class; a class short of rewards takes the batch's mean and deviation."""
    windows, answers = {}, []
    for rewards, labels in batches:
        rewards, labels, answer = np.array(rewards), np.array(labels), np.zeros(len(rewards))
        for label in set(labels.tolist()):
            windows.setdefault(label, deque(maxlen=window)).extend(rewards[labels == label])
            peers = windows[label] if len(windows[label]) >= min_count else rewards
            answer[labels == label] = (rewards[labels == label] - np.mean(peers)) / (np.std(peers) + 1e-6)
        answers.append(answer)
    return answers


@pytest.fixture
def batches():
    generator = np.random.default_rng(0)
    return [(generator.normal(labels, 1 + labels), labels) for labels in generator.integers(0, 3, size=(6, 10))]


@pytest.mark.parametrize("window, min_count", [(32, 16), (8, 4), (1, 1)])
def test_advantages_follow_each_class_window(batches, window, min_count):
    statistics = ClassStatistics(window, min_count)
    for (rewards, labels), expected in zip(batches, _tracked(batches, window, min_count)):
        np.testing.assert_allclose(statistics.advantages(rewards, labels), expected, rtol=1e-12, atol=1e-12)


def test_an_easy_class_does_not_outbid_a_hard_one():
    """The same rewards but for a class's offset give the same advantages: what the windows are for."""
    statistics, base = ClassStatistics(8, 4), np.array([0.0, 1.0, 2.0, 3.0])
    advantages = statistics.advantages([*base, *(base + 100)], [0] * 4 + [1] * 4)
    np.testing.assert_allclose(advantages[:4], advantages[4:])


def test_restored_statistics_go_on_as_if_never_stopped(batches):
    straight, stopped, resumed = (ClassStatistics(8, 4) for _ in range(3))
    for rewards, labels in batches[:3]:
        straight.advantages(rewards, labels)
        stopped.advantages(rewards, labels)
    resumed.load_state_dict(stopped.state_dict())
    for rewards, labels in batches[3:]:
        assert np.array_equal(straight.advantages(rewards, labels), resumed.advantages(rewards, labels))
    fresh = ClassStatistics(8, 4).advantages(*batches[-1])
    assert not np.array_equal(fresh, resumed.advantages(*batches[-1]))


def test_groups_are_compared_within_themselves():
    rewards = np.random.default_rng(1).normal(size=12)
    expected = np.concatenate([(g - g.mean()) / (g.std() + 1e-6) for g in np.split(rewards, 3)])
    np.testing.assert_allclose(group_advantages(rewards, 4), expected)


def test_equal_rewards_have_no_advantage():
    assert np.array_equal(group_advantages([0.3] * 4, 2), np.zeros(4))


@pytest.mark.parametrize("window, min_count", [(0, 0), (4, 0), (4, 5)])
def test_counts_that_cannot_work_are_refused(window, min_count):
    with pytest.raises(ValueError, match=f"^min_count is {min_count} and window is {window}"):
        ClassStatistics(window, min_count)


@pytest.mark.parametrize("count, group_size, named", [(4, 1, "group_size is 1"), (5, 2, "5 rewards")])
def test_groups_that_cannot_work_are_refused(count, group_size, named):
    with pytest.raises(ValueError, match=named):
        group_advantages([0.0] * count, group_size)

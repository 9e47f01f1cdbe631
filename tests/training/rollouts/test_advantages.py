"""Advantages against plain numpy."""

from collections import deque

import numpy as np
import pytest

from ubgen_training.rollouts.advantages import ClassStatistics, group_advantages


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

"""The alarm on synthetic curves: it fires on hacking, not on healthy training and not on noise."""

import math

import numpy as np
import pytest

from ubgen_training.checkpoints.state import load_state, save_state
from ubgen_training.reward_training.alarm import Evaluation, RewardAlarm, fit_trend

STEPS = range(0, 400, 20)


def _feed(alarm, trained, heldout, steps=STEPS, noise=0.0, seed=0):
    """The first step at which the alarm fires with its messages, or None; curves map an evaluation's index."""
    random = np.random.default_rng(seed)
    for index, step in enumerate(steps):
        figures = [
            {name: curve(index) * (1 + noise * random.standard_normal()) for name, curve in side.items()}
            for side in (trained, heldout)
        ]
        if messages := alarm.update(Evaluation(step, *figures)):
            return step, messages
    return None


def _rising(index):
    return 0.3 * (1 + 0.4 * (1 - math.exp(-index / 6)))


def _falling_late(index):
    return 0.6 * (1 - 0.04 * max(0, index - 5))


HACKED = ({"clip_alignment": _rising}, {"quality": _falling_late, "diversity": lambda _: 0.4})


def test_it_fires_on_hacking_and_names_both_and_the_updates():
    step, messages = _feed(RewardAlarm(), *HACKED)
    # the held-out one starts to fall after update 100; the fall is under 5 % before
    assert 100 < step <= 180
    assert len(messages) == 1
    assert "'clip_alignment' rose" in messages[0] and "'quality', which is not trained on, fell" in messages[0]
    assert f"from update {step - 80} to {step}" in messages[0]


def test_it_fires_on_collapse_alone():
    fired = _feed(RewardAlarm(), {"r": _rising}, {"q": lambda _: 0.5, "diversity": _falling_late})
    assert "'diversity'" in fired[1][0] and len(fired[1]) == 1


@pytest.mark.parametrize("noise", [0.005, 0.01])
def test_it_still_fires_under_noise(noise):
    assert all(_feed(RewardAlarm(), *HACKED, noise=noise, seed=seed) for seed in range(50))


@pytest.mark.parametrize(
    "trained, heldout",
    [
        (_rising, lambda index: 0.5 + 0.01 * index),
        (_rising, lambda index: 0.5),
        # a trained reward that falls along is a failing run, not a hacked reward
        (_falling_late, _falling_late),
        (lambda index: 0.3, _falling_late),
        # 1 % a window, under the tolerance
        (_rising, lambda index: 0.6 * (1 - 0.003 * index)),
    ],
)
def test_it_does_not_fire_on_other_curves(trained, heldout):
    assert _feed(RewardAlarm(), {"r": trained}, {"q": heldout}) is None


def test_it_hardly_fires_on_noise():
    """200 runs of 20 evaluations: none at noise of 1 %, few at 2 %, of which 5 % over a window are 1.9 deviations."""
    flat = {"a": lambda _: 0.3, "b": lambda _: 0.6}, {"q": lambda _: 0.5, "diversity": lambda _: 0.4}
    healthy = {"a": lambda index: 0.3 * (1 + 0.02 * index)}, flat[1]
    for curves in (flat, healthy):
        small, larger = (
            sum(_feed(RewardAlarm(), *curves, noise=noise, seed=seed) is not None for seed in range(200))
            for noise in (0.01, 0.02)
        )
        assert small == 0
        assert larger <= 0.08 * 200


def test_nothing_fires_before_the_window_is_full_and_the_window_moves_on():
    alarm = RewardAlarm(window=6)
    assert _feed(alarm, {"r": lambda index: 0.1 * index}, {"q": lambda index: 1 - 0.1 * index}, STEPS[:5]) is None
    assert alarm.update(Evaluation(100, {"r": 0.5}, {"q": 0.5}))
    for index in range(6):
        messages = alarm.update(Evaluation(120 + 20 * index, {"r": 0.5}, {"q": 0.5}))
    assert not messages and len(alarm.history) == 6


def test_tolerance_is_a_share_of_the_size_also_of_negative_rewards():
    def fires(tolerance):
        alarm = RewardAlarm(tolerance=tolerance)
        return _feed(alarm, {"r": lambda index: index}, {"q": lambda index: -2 - 0.1 * index}, STEPS[:5]) is not None

    # -2 to -2.4 is a fall by 20 %
    assert fires(0.19) and not fires(0.21)


def test_trend_is_the_least_squares_line_and_its_standard_error():
    steps, values = [0, 20, 40, 70], [1.0, 1.4, 1.3, 2.0]
    trend = fit_trend(steps, values)
    (slope, intercept), covariance = np.polyfit(steps, values, 1, cov=True)
    assert trend.start == pytest.approx(intercept) and trend.end == pytest.approx(intercept + 70 * slope)
    # numpy scales the covariance by the residuals' variance with count - 2 degrees of freedom, too
    assert trend.error == pytest.approx(70 * math.sqrt(covariance[0, 0]))


def test_a_resumed_alarm_fires_where_the_straight_one_does(tmp_path):
    straight = _feed(RewardAlarm(), *HACKED)
    alarm = RewardAlarm()
    cut = list(STEPS).index(straight[0]) - 1
    _feed(alarm, *HACKED, STEPS[:cut])
    save_state(alarm.state_dict(), tmp_path / "alarm.safetensors")
    resumed = RewardAlarm()
    resumed.load_state_dict(load_state(tmp_path / "alarm.safetensors"))
    shifted = [{name: (lambda i, c=curve: c(i + cut)) for name, curve in side.items()} for side in HACKED]
    assert _feed(resumed, *shifted, STEPS[cut:]) == straight


def test_a_figure_added_on_resume_waits_for_a_full_window():
    alarm = RewardAlarm()
    for index in range(4):
        assert not alarm.update(Evaluation(index, {"r": float(index)}, {}))
    assert not alarm.update(Evaluation(4, {"r": 4.0}, {"q": 1.0}))
    for index in range(5, 9):
        messages = alarm.update(Evaluation(index, {"r": float(index)}, {"q": 1.0 - 0.1 * (index - 4)}))
    assert len(messages) == 1


@pytest.mark.parametrize("settings, named", [({"window": 3}, "^window is 3"), ({"tolerance": -1}, "^tolerance is -1")])
def test_bad_settings_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        RewardAlarm(**settings)

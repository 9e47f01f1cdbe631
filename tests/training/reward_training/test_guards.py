"""The guards: what is evaluated when, on which samples, what the alarm does, and resume; diversity in closed form."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState

from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.checkpoints.state import load_state, save_state
from ubgen_training.lora.adapter import LoraSettings
from ubgen_training.reward_training.alarm import RewardAlarm
from ubgen_training.reward_training.fixed_samples import FixedSamples
from ubgen_training.reward_training.guards import RewardGuards, check_heldout_names, class_diversity, default_interval
from ubgen_training.sampler.sampler_model import SamplerModel, SamplingSettings
from ubgen_training.ubgen.ubgen_config import UbGenConfig
from ubgen_training.ubgen.ubgen_trainer import UbGenTrainer

NAMES = ["circle", "star"]


class _Sampler:
    """Images whose mean is ``level``, with noise of the seed scaled by ``spread``."""

    def __init__(self):
        self.level, self.spread = 0.5, 0.1

    def __call__(self, labels, seeds):
        noise = [torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        noise = torch.stack([part - part.mean() for part in noise])
        return self.level + self.spread * noise


class _Encoder:
    def encode_images(self, images):
        return images.flatten(1)


def brightness(images, class_names, labels, **kwargs):
    return images.mean(dim=(1, 2, 3))


def darkness(images, class_names, labels, **kwargs):
    """Not differentiable: a held-out reward need not be."""
    return 1 - images.detach().mean(dim=(1, 2, 3))


def _guards(folder, heldout=(), encoder=None, **settings):
    sampler, logs, control = _Sampler(), [], TrainerControl()
    samples = FixedSamples(sampler, NAMES, seed=0, num_classes=2, num_per_class=3, batch_size=4)
    guards = RewardGuards(samples, NAMES, [brightness], heldout, encoder, log=logs.append, **settings)
    state = TrainerState(max_steps=100)
    args = SimpleNamespace(output_dir=str(folder))

    def at(step):
        """One update's end, or training's beginning; the images get brighter by the update."""
        state.global_step, sampler.level = step, 0.2 + 0.005 * step
        (guards.on_step_end if step else guards.on_train_begin)(args, state, control)

    return guards, at, logs, control, sampler


def test_trained_heldout_and_diversity_are_logged_under_names_of_their_own(tmp_path):
    _, at, logs, *_ = _guards(tmp_path, [darkness], _Encoder(), every_steps=10)
    at(0)
    (figures,) = logs
    assert set(figures) == {
        *("fixed_samples/brightness", "heldout/darkness"),
        *("heldout/diversity", "heldout/diversity/circle", "heldout/diversity/star"),
    }
    assert figures["fixed_samples/brightness"] == pytest.approx(0.2, abs=0.02)
    assert figures["heldout/darkness"] == pytest.approx(1 - figures["fixed_samples/brightness"], abs=1e-5)
    classes = [figures[f"heldout/diversity/{name}"] for name in NAMES]
    assert figures["heldout/diversity"] == pytest.approx(sum(classes) / 2) and min(classes) > 0


def test_evaluations_come_before_the_first_update_at_the_interval_and_at_the_end(tmp_path):
    _, at, logs, *_ = _guards(tmp_path, every_steps=30, grid_steps=50)
    evaluated = []
    for step in range(101):
        before = len(logs)
        at(step)
        if len(logs) > before:
            evaluated.append(step)
    assert evaluated == [0, 30, 50, 60, 90, 100]
    grids = sorted(file.name for file in (tmp_path / "samples").iterdir())
    assert grids == [f"step_{step:06d}.png" for step in (0, 50, 100)]


def test_zero_intervals_draw_nothing(tmp_path):
    _, at, logs, *_ = _guards(tmp_path, every_steps=0)
    for step in (0, 1, 100):
        at(step)
    assert not logs and not list(tmp_path.iterdir())


def test_samples_are_the_same_each_time(tmp_path):
    guards, _, _, _, sampler = _guards(tmp_path, [darkness], _Encoder(), every_steps=1)
    first, second = guards.evaluate(0), guards.evaluate(5)
    assert first.trained == second.trained and first.heldout == second.heldout
    sampler.spread = 0.01
    assert guards.evaluate(6).heldout["diversity"] < 0.1 * first.heldout["diversity"]


def test_only_the_first_process_writes_grids(tmp_path):
    guards, *_ = _guards(tmp_path, every_steps=1)
    state = TrainerState(max_steps=5, is_world_process_zero=False)
    guards.on_train_begin(SimpleNamespace(output_dir=str(tmp_path)), state, TrainerControl())
    assert not list(tmp_path.iterdir())


def _steps_until_alarm(at, logs, steps):
    for step in steps:
        at(step)
        if "heldout/alarm" in logs[-1]:
            return step
    return None


@pytest.mark.parametrize("stop", [False, True])
def test_the_alarm_warns_and_stops_where_asked(tmp_path, capsys, stop):
    settings = {"alarm": RewardAlarm(), "every_steps": 10, "stop_on_alarm": stop}
    _, at, logs, control, _ = _guards(tmp_path, [darkness], **settings)
    # brightness rises, darkness falls; the window holds five evaluations
    assert _steps_until_alarm(at, logs, range(0, 100, 10)) == 40
    printed = capsys.readouterr().err
    assert "'brightness' rose" in printed and "'darkness', which is not trained on, fell" in printed
    assert logs[-1] == {"heldout/alarm": 1.0}
    assert control.should_training_stop is stop and control.should_save is stop
    assert ("saving, then stopping" in printed) is stop


def test_without_a_heldout_figure_there_is_no_alarm(tmp_path):
    _, at, logs, *_ = _guards(tmp_path, alarm=RewardAlarm(), every_steps=10)
    assert _steps_until_alarm(at, logs, range(0, 100, 10)) is None


def test_evaluations_for_a_grid_alone_do_not_reach_the_alarm(tmp_path):
    guards, at, *_ = _guards(tmp_path, [darkness], alarm=RewardAlarm(window=8), every_steps=10, grid_steps=5)
    for step in range(0, 41, 5):
        at(step)
    assert [evaluation.step for evaluation in guards.alarm.history] == [0, 10, 20, 30, 40]


def test_resume_goes_on_with_what_the_alarm_has_seen(tmp_path):
    settings = {"alarm": RewardAlarm(), "every_steps": 10}
    first, at, logs, *_ = _guards(tmp_path, [darkness], **settings)
    assert _steps_until_alarm(at, logs, range(0, 30, 10)) is None
    save_state(first.state_dict(), tmp_path / "guards.safetensors")
    second, at, logs, *_ = _guards(tmp_path, [darkness], alarm=RewardAlarm(), every_steps=10)
    second.load_state_dict(load_state(tmp_path / "guards.safetensors"))
    assert _steps_until_alarm(at, logs, range(30, 100, 10)) == 40


def test_resume_does_not_evaluate_again_where_it_starts(tmp_path):
    guards, _, logs, *_ = _guards(tmp_path, every_steps=10)
    state = TrainerState(max_steps=100)
    state.global_step = 20
    guards.on_train_begin(SimpleNamespace(output_dir=str(tmp_path)), state, TrainerControl())
    assert not logs


def test_a_log_here_leaves_the_losss_own_log_due(tmp_path):
    _, at, _, control, _ = _guards(tmp_path, every_steps=1)
    control.should_log = True
    at(3)
    assert control.should_log


@pytest.mark.parametrize(
    "trained, heldout, named",
    [
        (["a", "b"], ["b"], r"holds \['b'\], also in reward_funcs"),
        (["a"], ["b", "b"], "name each once"),
        (["a"], ["diversity"], "none 'diversity'"),
    ],
)
def test_heldout_rewards_are_really_held_out(trained, heldout, named):
    with pytest.raises(ValueError, match=f"heldout_reward_funcs .*{named}"):
        check_heldout_names(trained, heldout)


def test_the_default_interval_draws_at_most_a_twentieth_of_the_images():
    for samples, images in ((32, 4), (32, 32), (8, 1000), (1, 1)):
        interval = default_interval(samples, images)
        assert samples <= 0.05 * images * interval
        assert interval == 1 or samples > 0.05 * images * (interval - 1)


def _trainer(model, folder, rewards, heldout=(), **settings):
    config = UbGenConfig(
        output_dir=str(folder),
        num_inference_steps=2,
        num_gradient_steps=1,
        adversarial_weight=0.0,
        per_device_train_batch_size=2,
        learning_rate=3e-2,
        max_grad_norm=1.0,
        lora_average_decay=0.0,
        num_samples_per_class=2,
        heldout_steps=1,
        sample_steps=0,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        **settings,
    )
    sampler = SamplerModel(load_pipeline(model, scheduler="ddpm"), NAMES, LoraSettings(4), SamplingSettings(2, 1.0))
    return UbGenTrainer(sampler, config, NAMES, rewards, heldout_reward_funcs=heldout)


def test_training_stops_on_an_alarm_with_a_checkpoint(tiny_model, tmp_path):
    """Brightness is trained on; its opposite is held out and falls by as much."""
    settings = {"max_steps": 30, "stop_on_alarm": True, "reward_weights": [1.0], "alarm_tolerance": 0.0}
    trainer = _trainer(tiny_model, tmp_path, [brightness], [darkness], **settings)
    trainer.train()
    history = trainer.state.log_history
    (alarm,) = [entry["step"] for entry in history if "heldout/alarm" in entry]
    assert trainer.state.global_step == alarm < 30
    assert json.loads((tmp_path / f"checkpoint-{alarm}" / "checkpoint.json").read_text())["step"] == alarm
    series = [entry["heldout/darkness"] for entry in history if "heldout/darkness" in entry]
    assert len(series) == alarm + 1 and series[-1] < series[0]
    rising = [entry["fixed_samples/brightness"] for entry in history if "fixed_samples/brightness" in entry]
    assert all(math.isclose(up + down, 1, abs_tol=1e-5) for up, down in zip(rising, series))


def test_a_reward_of_weight_zero_is_held_out(tiny_model, tmp_path):
    def contrast(images, class_names, labels, **kwargs):
        return images.std(dim=(1, 2, 3))

    rewards = [brightness, contrast]
    trainer = _trainer(tiny_model, tmp_path, rewards, max_steps=1, reward_weights=[1.0, 0.0])
    assert trainer.reward_guards.trained == [brightness] and trainer.reward_guards.heldout == [contrast]


def test_one_direction_is_0_orthogonal_ones_are_1_and_opposite_ones_are_2():
    features = torch.tensor([[1.0, 0], [3, 0], [0, 5], [2, 0], [0, 1], [0, -4]])
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert class_diversity(features, labels) == pytest.approx({0: 0.0, 1: 1.0, 2: 2.0})


def test_three_at_sixty_degrees():
    """Directions at 0, 60 and 120 degrees: cosines 1/2, 1/2 and -1/2."""
    angles = torch.tensor([0.0, 60.0, 120.0]).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert class_diversity(features, torch.zeros(3, dtype=torch.long))[0] == pytest.approx(1 - 0.5 / 3)


def test_it_equals_the_mean_over_pairs_and_classes_do_not_mix():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(11, 7, generator=generator)
    labels = torch.tensor([4, 1, 4, 1, 1, 4, 4, 9, 1, 4, 1])
    own = class_diversity(features, labels)
    assert list(own) == [1, 4]
    for label, value in own.items():
        rows = features[labels == label]
        pairs = [
            1 - torch.cosine_similarity(rows[i], rows[j], dim=0)
            for i in range(len(rows))
            for j in range(len(rows))
            if i != j
        ]
        assert value == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-5)


def test_nearly_equal_images_keep_their_small_distance():
    features = torch.tensor([[1.0, 0.0], [1.0, 1e-4]])
    assert class_diversity(features, torch.zeros(2))[0] == pytest.approx(0.5e-8, rel=1e-3)


def test_lengths_that_differ_are_named():
    with pytest.raises(ValueError, match="features holds 2 rows for 3 labels"):
        class_diversity(torch.ones(2, 4), torch.zeros(3))

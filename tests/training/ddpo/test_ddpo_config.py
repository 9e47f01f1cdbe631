"""Counts derived from the settings, and settings that cannot work."""

import pytest

from support import ROOT
from ubgen_pipeline.commands.settings_parser import parse_settings
from ubgen_training.ddpo.ddpo_config import DDPOConfig


def _config(**settings):
    return DDPOConfig(**{"output_dir": "unused", "use_cpu": True, "num_inference_steps": 50, **settings})


def test_defaults_train_whole_trajectories():
    config = _config()
    assert (config.num_trained_steps, config.gradient_accumulation_steps) == (49, 49)
    # 16 samples x 49 steps in batches of 4, 49 batches in an update
    assert (config.batches_per_pass, config.updates_per_rollout) == (196, 4)


def test_counts_wait_for_the_models_own_steps():
    config = _config(num_inference_steps=None)
    assert (config.num_trained_steps, config.gradient_accumulation_steps) == (None, None)
    config.take_sampling(4, 1.0)
    assert (config.num_inference_steps, config.num_trained_steps, config.gradient_accumulation_steps) == (4, 3, 3)
    with pytest.raises(ValueError, match=r"num_trained_steps is 9; choose 1 to 3, .* num_inference_steps = 4"):
        _config(num_inference_steps=None, num_trained_steps=9).take_sampling(4, 1.0)


def test_a_window_moves_on_and_begins_again():
    config = _config(num_inference_steps=6, dynamics="cps", window_size=3, window_interval=2)
    assert config.num_trained_steps == 3
    # of the five steps that can draw, three in a row
    assert [config.window(rollout)[0] for rollout in range(8)] == [0, 0, 1, 1, 2, 2, 0, 0]
    assert config.window(2) == range(1, 4)
    assert _config(num_inference_steps=6).window(9) == range(5)


def test_inner_epochs_multiply_the_updates():
    counts = {"rollout_size": 8, "num_inference_steps": 6, "num_trained_steps": 3, "per_device_train_batch_size": 4}
    config = _config(**counts, num_inner_epochs=2, gradient_accumulation_steps=2)
    assert (config.batches_per_pass, config.updates_per_rollout) == (6, 6)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"scheduler": "dpm++"}, "scheduler is 'dpm\\+\\+', whose steps have no log-probability"),
        ({"scheduler": "ddim", "eta": 0.0}, "eta is 0.0"),
        ({"scheduler": "ddim", "eta": 1.1}, "eta is 1.1; .* for ddim choose it in"),
        ({"dynamics": "flow_sde", "eta": 0.0}, "eta is 0.0; .* for flow_sde choose it above 0"),
        ({"dynamics": "sde"}, "dynamics is 'sde'; choose one of ddpm, ddim, flow_sde, dance_sde, cps"),
        ({"dynamics": "ddpm", "scheduler": "ddim"}, "dynamics is 'ddpm' and scheduler 'ddim'"),
        ({"num_inference_steps": 1}, "num_inference_steps is 1"),
        ({"num_trained_steps": 0}, "num_trained_steps is 0; choose 1 to 49"),
        ({"num_trained_steps": 50}, "num_trained_steps is 50; choose 1 to 49"),
        ({"dynamics": "cps", "window_size": 50}, "window_size is 50; choose 1 to 49"),
        ({"dynamics": "cps", "window_size": 0}, "window_size is 0; choose 1 to 49"),
        ({"dynamics": "ddim", "window_size": 2}, "window_size is 2, but dynamics is 'ddim'"),
        ({"dynamics": "ddpm", "ratio_normalisation": True}, "ratio_normalisation is on, but dynamics is 'ddpm'"),
        ({"dynamics": "cps", "window_interval": 0}, "window_interval is 0"),
        ({"dynamics": "cps", "window_size": 2, "num_trained_steps": 3}, "num_trained_steps is 3; choose 1 to 2"),
        ({"rollout_size": 0}, "rollout_size is 0"),
        ({"num_inner_epochs": 0}, "num_inner_epochs is 0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"gradient_accumulation_steps": 5}, "gradient_accumulation_steps is 5, which does not divide the 196"),
        ({"rollout_size": 6}, "rollout_size is 6, no multiple of per_device_train_batch_size = 4"),
        ({"advantages": "group", "group_size": 1}, "group_size is 1"),
        ({"advantages": "group", "group_size": 3}, "rollout_size is 16, no multiple of group_size = 3"),
        ({"advantages": "mean"}, "advantages is 'mean'"),
        ({"log_probability": "max"}, "log_probability is 'max'"),
        ({"clip_range": 0.0}, "clip_range is 0.0"),
        ({"advantage_clip": -1.0}, "advantage_clip is -1.0"),
        ({"kl_weight": -0.1}, "kl_weight is -0.1"),
        ({"kl_weight": float("nan")}, "kl_weight is nan"),
        ({"kl_weight": 0.1, "train_method": "full"}, "kl_weight is 0.1, but train_method is 'full'"),
        ({"statistics_min_count": 64}, "statistics_min_count is 64"),
        (
            {"reward_weights": [0.0, 0.0]},
            r"reward_weights is \[0.0, 0.0\], so nothing is trained",
        ),
        ({"reward_funcs": []}, r"reward_weights is \[\], so nothing is trained"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        _config(**settings)


def test_the_recipe_parses():
    file = ROOT / "training" / "configs" / "mini_ddpo.yaml"
    config = parse_settings(DDPOConfig, ["--config", str(file), "--use_cpu"])
    assert config.model_name_or_path == "mini" and config.updates_per_rollout >= 1


def test_dynamics_name_what_a_checkpoint_compares():
    assert [getattr(_config(), name) for name in ("dynamics", "scheduler", "eta")] == [None] * 3
    older = _config(scheduler="ddim", eta=0.5)
    assert (older.dynamics, older.scheduler, older.step_noise) == ("ddim", "ddim", 0.5)
    flow = _config(dynamics="dance_sde")
    assert (flow.scheduler, flow.step_noise) == (None, 0.3)

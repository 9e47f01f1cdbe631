"""Settings of training by the forward process, and what cannot work."""

import pytest

from support import ROOT
from ubgen_pipeline.commands.settings_parser import parse_settings
from ubgen_training.nft.nft_config import NFTConfig


def config(**settings):
    return NFTConfig(**{"output_dir": "unused", "use_cpu": True, "num_inference_steps": 10, **settings})


def test_every_step_can_be_trained_on():
    defaults = config()
    assert (defaults.num_trained_steps, defaults.gradient_accumulation_steps) == (10, 10)
    # the one step of a distilled model, too
    assert config(num_inference_steps=1).num_trained_steps == 1


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"objective": "ppo"}, "objective is 'ppo'; choose nft or awm"),
        ({"beta": 0.0}, "beta is 0.0; choose a number above 0"),
        ({"clip_range": -1.0}, "clip_range is -1.0"),
        ({"old_decay": 1.0}, "old_decay is 1.0"),
        ({"kl_weight": -0.1}, "kl_weight is -0.1"),
        ({"kl_weight": 0.1, "train_method": "full"}, "kl_weight is 0.1, but train_method is 'full'"),
        ({"num_trained_steps": 11}, "num_trained_steps is 11; choose 1 to 10, which are all of num_inference_steps"),
        ({"rollout_size": 6}, "rollout_size is 6, no multiple of per_device_train_batch_size = 4"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        config(**settings)


def test_the_mini_settings_pair_with_those_of_the_policy_gradient():
    """The same base, rewards and images of an update, so that the two can be compared."""
    from ubgen_training.ddpo.ddpo_config import DDPOConfig

    configs = ROOT / "training" / "configs"
    own, other = (
        parse_settings(kind, ["--config", str(configs / file), "--output_dir", "unused", "--use_cpu", "true"])
        for kind, file in ((NFTConfig, "mini_nft.yaml"), (DDPOConfig, "mini_ddpo.yaml"))
    )
    for name in ("model_name_or_path", "reward_funcs", "images_per_update", "max_steps", "lora_rank", "class_names"):
        assert getattr(own, name) == getattr(other, name), name

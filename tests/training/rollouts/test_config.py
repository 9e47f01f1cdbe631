"""Counts derived from the settings of rollouts; what cannot work is tested with the settings of each training."""

import pytest

from ubgen_training.ddpo.ddpo_config import DDPOConfig
from ubgen_training.nft.nft_config import NFTConfig


@pytest.mark.parametrize("kind, trained", [(DDPOConfig, 9), (NFTConfig, 10)])
def test_counts_follow_from_the_steps_that_can_be_trained(kind, trained):
    config = kind(output_dir="unused", use_cpu=True, num_inference_steps=10, rollout_size=8, num_inner_epochs=2)
    assert config.trained_steps == config.batches_per_update == trained
    assert config.batches_per_pass == 8 * trained // 4 and config.updates_per_rollout == 4
    assert config.images_per_update == 2


@pytest.mark.parametrize("kind", [DDPOConfig, NFTConfig])
@pytest.mark.parametrize(
    "settings, named",
    [
        ({"gradient_accumulation_steps": 7}, "gradient_accumulation_steps is 7, which does not divide"),
        ({"advantages": "group", "group_size": 3}, "no multiple of group_size = 3"),
        ({"statistics_min_count": 40}, "statistics_min_count is 40 and statistics_window is 32"),
        ({"reward_normalisation": "both"}, "reward_normalisation is 'both'; choose sum or each"),
        ({"advantage_clip": 0.0}, "advantage_clip is 0.0"),
    ],
)
def test_counts_that_do_not_divide_are_named(kind, settings, named):
    with pytest.raises(ValueError, match=named):
        kind(output_dir="unused", use_cpu=True, num_inference_steps=10, **settings)

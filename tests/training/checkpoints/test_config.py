"""What all trainers' settings share."""

import math

import pytest
from transformers import TrainingArguments

from ubgen_training.backbone.backbone_config import BackboneConfig
from ubgen_training.ddpo.ddpo_config import DDPOConfig
from ubgen_training.ubgen.ubgen_config import UbGenConfig


@pytest.mark.parametrize("settings", [{"use_cpu": True}, {}], ids=["asked for the CPU", "there is nothing else"])
def test_memory_is_pinned_only_for_an_accelerator(tmp_path, settings):
    for config_class in (UbGenConfig, BackboneConfig):
        given = {"dataset": "d"} if config_class is BackboneConfig else {}
        config = config_class(output_dir=str(tmp_path), **given, **settings)
        assert config.dataloader_pin_memory == (config.device.type != "cpu")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name", ["learning_rate", "weight_decay", "warmup_steps", "guidance_scale", "reference_weight"]
)
def test_a_number_that_is_not_finite_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name} is {value}; choose"):
        UbGenConfig(output_dir="unused", use_cpu=True, **{name: value})


def test_so_is_one_in_a_list():
    with pytest.raises(ValueError, match=r"^reward_weights is \[1.0, nan\]; choose finite numbers"):
        DDPOConfig(output_dir="unused", use_cpu=True, reward_weights=[1.0, math.nan])


def test_infinity_clips_no_gradient():
    assert UbGenConfig(output_dir="unused", use_cpu=True, max_grad_norm=math.inf).max_grad_norm == math.inf
    with pytest.raises(ValueError, match=r"^max_grad_norm is nan; choose"):
        UbGenConfig(output_dir="unused", use_cpu=True, max_grad_norm=math.nan)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"learning_rate": -1e-5}, "learning_rate is -1e-05; choose 0 or more"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; choose 0 or more"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0; choose 0 or more"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0; choose 1 or more"),
    ],
)
@pytest.mark.parametrize("config_class", [UbGenConfig, BackboneConfig])
def test_a_number_out_of_range_is_refused_by_name(config_class, settings, message):
    given = {"dataset": "d"} if config_class is BackboneConfig else {}
    with pytest.raises(ValueError, match=message):
        config_class(output_dir="unused", use_cpu=True, **given, **settings)


def test_one_process_takes_one_gpu_of_several(monkeypatch):
    """transformers would have torch's DataParallel cut each batch."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda config: 4))
    with pytest.warns(UserWarning, match="this machine shows 4: the first is used. Launch with `accelerate launch`"):
        config = UbGenConfig(output_dir="unused", use_cpu=True)
    assert config.n_gpu == 1 and config.train_batch_size == config.per_device_train_batch_size

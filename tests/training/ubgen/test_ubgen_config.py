"""Settings of the ubGen loss: the recipes, what is refused by name, and what follows from the settings."""

import pytest
import torch

from support import ROOT
from ubgen_pipeline.commands.settings_parser import parse_settings
from ubgen_training.ubgen.ubgen_config import UbGenConfig


def config(**settings):
    return UbGenConfig(**{"output_dir": "unused", "use_cpu": True, **settings})


def test_configs_parse_and_sd15_is_table_5():
    folder = ROOT / "training" / "configs"
    mini = parse_settings(UbGenConfig, ["--config", str(folder / "mini.yaml")])
    assert mini.model_name_or_path == "mini" and len(mini.class_names) == 10
    # fp16 itself needs a GPU to be accepted
    paper = parse_settings(UbGenConfig, ["--config", str(folder / "sd15_imagenet1k.yaml"), "--fp16", "false"])
    expected = {
        "learning_rate": 2e-5,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "max_grad_norm": 0.1,
        "discriminator_learning_rate": 1e-5,
        "discriminator_max_grad_norm": 1.0,
        "reward_weights": [1.0, 0.1],
        "num_gradient_steps": 5,
        "num_inference_steps": 50,
        "lora_rank": 128,
        "guidance_scale": 2.0,
        "height": 512,
        "width": 512,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
    }
    assert {name: getattr(paper, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discriminator_hidden_dim": 0}, "discriminator_hidden_dim is 0; choose 1 or more"),
        ({"discriminator_noise_steps": 0}, "discriminator_noise_steps is 0; choose 1 or more"),
        ({"reference_weight": -1.0}, "reference_weight is -1.0; choose 0 or more"),
        ({"reference_steps": -1}, "reference_steps is -1; choose 0 or more"),
        ({"discriminator_warmup_steps": -1}, "discriminator_warmup_steps is -1; choose 0 or more"),
        ({"adversarial_weight": -0.5}, "adversarial_weight is -0.5; choose 0 or more"),
        ({"discriminator_r1": -0.5}, "discriminator_r1 is -0.5; choose 0 or more"),
        ({"images_per_class_in_batch": 0}, "images_per_class_in_batch is 0, per_device_train_batch_size 4"),
        ({"images_per_class_in_batch": 3}, "images_per_class_in_batch is 3, per_device_train_batch_size 4"),
        ({"images_per_class_in_batch": 2, "class_repeats": 3}, "images_per_class_in_batch is 2, class_repeats 3"),
        ({"reference_weight": 0.1, "train_method": "full"}, "reference_weight is 0.1, but train_method is 'full'"),
        ({"adversarial_form": "hinge"}, "adversarial_form is 'hinge'; choose one of minimax, non_saturating"),
        ({"adversarial_text": "any"}, "adversarial_text is 'any'; choose one of other_class, batch_permutation"),
        ({"discriminator_form": "mine"}, "discriminator_form is 'mine'; choose one of paper, released"),
        ({"discriminator_activation": "tanh"}, "discriminator_activation is 'tanh'; choose one of relu, leaky_relu"),
        ({"num_gradient_steps": 51, "num_inference_steps": 50}, "num_gradient_steps is 51"),
        ({"discriminator_max_grad_norm": -1.0}, "discriminator_max_grad_norm is -1.0"),
        ({"discriminator_learning_rate": -1.0}, "discriminator_learning_rate is -1.0"),
        ({"adversarial_weight": 0.0, "reward_weights": [0.0, 0.0]}, "so nothing is trained"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_pndm_walks_a_step_more_than_asked_for():
    assert config(num_inference_steps=5, num_gradient_steps=6, scheduler="pndm").num_gradient_steps == 6
    with pytest.raises(ValueError, match="num_gradient_steps is 6"):
        config(num_inference_steps=5, num_gradient_steps=6)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"reference_steps": 3}, [False, False, True, False, False, True]),
        ({"reference_steps": 0}, [False] * 6),
        ({"reference_steps": 0, "reference_weight": 0.1}, [True] * 6),
        ({"reference_steps": 1, "train_method": "full"}, [False] * 6),
    ],
)
def test_the_distance_to_the_untrained_model_is_measured_when_it_is_asked_for(settings, expected):
    chosen = config(**settings)
    assert [chosen.measures_reference(step) for step in range(6)] == expected


def test_steps_with_gradient_are_chosen_as_the_strategy_says():
    assert config(num_gradient_steps=3).choose_gradient_steps(50, torch.Generator()).steps < set(range(50))
    listed = config(gradient_strategy="steps", gradient_step_list=[0, 49])
    assert listed.choose_gradient_steps(50, torch.Generator()).steps == {0, 49}

"""Rewards by name and import path: what is found, what is refused and when."""

import sys
from importlib import import_module

import pytest
import torch

from ubgen_training.reward_training.build_rewards import (
    REWARDS,
    build_reward,
    build_rewards,
    needs_clip_encoder,
    probe_rewards,
)
from ubgen_training.reward_training.config import SamplerConfig
from ubgen_training.rewards.clip_alignment import ClipAlignmentReward
from ubgen_training.rewards.jpeg_size import JpegSizeReward
from ubgen_training.rewards.quality import QualityReward
from ubgen_training.ubgen.ubgen_loss import UbGenLoss

NAMES = ["circle", "star"]
SIZE = {"height": 16, "width": 16}
MODULE = """
import torch

def brightness(images, class_names, labels, **kwargs):
    return images.mean(dim=(1, 2, 3))

def positional(images, class_names):
    return images.mean(dim=(1, 2, 3))

class Contrast:
    def __call__(self, images, class_names, labels, **kwargs):
        return images.std(dim=(1, 2, 3))

class NeedsSize:
    def __init__(self, size):
        self.size = size

class Inner:
    ready = Contrast()

number = 3
"""


class _Encoder:
    """Features that are means of pixels, and one-hot texts."""

    def encode_images(self, images):
        return images.mean(dim=(2, 3))

    def encode_texts(self, texts):
        return torch.eye(3)[: len(texts)]


@pytest.fixture
def config(tmp_path):
    return SamplerConfig(output_dir=str(tmp_path), quality_model="mini", use_cpu=True)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the current folder, which is not on the path."""
    (tmp_path / "my_own_rewards.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    # the import adds the folder to the path, and the module to those that are loaded
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "my_own_rewards"
    sys.modules.pop("my_own_rewards", None)


def test_every_name_gives_its_reward(config):
    config.recognition_model = "mini"
    built = {name: build_reward(name, config, _Encoder(), NAMES) for name in REWARDS}
    assert isinstance(built["clip_alignment"], ClipAlignmentReward) and isinstance(built["quality"], QualityReward)
    assert isinstance(built["jpeg_size"], JpegSizeReward) and built["jpeg_incompressibility"].sign == 1
    # each is logged under the name it was asked for by
    assert all(reward.__name__ == name for name, reward in built.items())


def test_settings_reach_the_named_rewards(config):
    config.alignment_pairs = "all"
    reward = build_reward("clip_alignment", config, _Encoder(), NAMES)
    assert reward.pairing == "all" and reward.reads_whole_batch


def test_the_classifier_that_cannot_be_loaded_is_named(config):
    config.recognition_model = "no/such/model"
    with pytest.raises(ValueError, match="recognition_model 'no/such/model' cannot be loaded"):
        build_reward("recognised", config, None, NAMES)


def test_quality_model_chooses_the_scorer(config, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "ubgen_training.reward_training.build_rewards.load_quality_reward", lambda *a: asked.append(a) or "scorer"
    )
    config.quality_model = "q-future/one-align"
    assert build_reward("quality", config, None, NAMES) == "scorer"
    assert asked == [("q-future/one-align", torch.float32)]


def test_only_clip_alignment_asks_for_an_encoder(config):
    assert needs_clip_encoder(["quality", "clip_alignment"]) and not needs_clip_encoder(
        ["quality", "a:clip_alignment"]
    )
    with pytest.raises(ValueError, match="no CLIP encoder was loaded; set clip_model"):
        build_reward("clip_alignment", config, None, NAMES)


@pytest.mark.parametrize("attribute", ["brightness", "Contrast", "Inner.ready"])
def test_import_paths_give_functions_classes_and_objects(config, module, attribute):
    reward = build_reward(f"{module}:{attribute}", config, None, NAMES)
    images = torch.rand(2, 3, 4, 4)
    assert reward(images, NAMES, torch.tensor([0, 1]), step=0).shape == (2,)
    probe_rewards([reward], NAMES, **SIZE)


@pytest.mark.parametrize(
    "name, named",
    [
        ("beauty", r"holds 'beauty'; choose from clip_alignment, quality, .*package.module:attribute"),
        ("my_own_rewards:absent", "cannot be imported .*absent"),
        ("no_such_package:f", "cannot be imported .*no_such_package"),
        (":f", "cannot be imported"),
        ("my_own_rewards:", "cannot be imported"),
        ("my_own_rewards:number", "is int and cannot be called"),
        ("my_own_rewards:NeedsSize", "cannot be made without arguments .*size"),
        ("my_own_rewards:positional", r"cannot be called as a reward .*define it as f\(images, class_names, labels"),
    ],
)
def test_what_is_no_reward_is_named(config, module, name, named):
    with pytest.raises(ValueError, match=f"reward_funcs holds .*{named}|reward_funcs {named}"):
        build_reward(name, config, None, NAMES)
    # as it was set: a held-out reward is not in reward_funcs
    heldout = SamplerConfig(output_dir=config.output_dir, use_cpu=True, reward_funcs=[], heldout_reward_funcs=[name])
    with pytest.raises(ValueError, match=r"^heldout_reward_funcs holds "):
        build_rewards(heldout, NAMES)


def _rewarding(function, **attributes):
    def reward(images, class_names, labels, **kwargs):
        return function(images)

    vars(reward).update(attributes)
    return reward


@pytest.mark.parametrize(
    "reward, named",
    [
        (JpegSizeReward(), "'jpeg_size' is not differentiable.*heldout_reward_funcs takes it.*train_nft.py"),
        (_rewarding(lambda x: x.mean()), r"'reward' returned \(\)"),
        (_rewarding(lambda x: torch.ones(len(x))), "'reward' returned values without gradient"),
        (_rewarding(lambda x: (x * 0).mean(dim=(1, 2, 3))), "'reward' has no gradient with respect to the images"),
        (
            _rewarding(lambda x: torch.ones(len(x), requires_grad=True)),
            "'reward' has no gradient with respect to the images",
        ),
    ],
)
def test_the_probe_refuses_what_cannot_train(reward, named):
    with pytest.raises(ValueError, match=named):
        probe_rewards([reward], NAMES, **SIZE)


@pytest.mark.parametrize(
    "function, named",
    [
        (lambda x: x.mean(dim=(1, 2, 3)) / 0, "step 0: reward is not finite"),
        # finite itself, but the root's slope at 0 is not
        (lambda x: (x - x).square().sum(dim=(1, 2, 3)).sqrt(), "gradient of reward 'reward' is not finite"),
    ],
)
def test_the_probe_finds_what_is_not_finite(function, named):
    with pytest.raises(FloatingPointError, match=named):
        probe_rewards([_rewarding(function)], NAMES, **SIZE)


def test_policy_gradient_takes_rewards_without_gradient():
    probe_rewards([JpegSizeReward(), _rewarding(lambda x: torch.ones(len(x)))], NAMES, **SIZE, differentiable=False)
    with pytest.raises(ValueError, match=r"'reward' returned \(\)"):
        probe_rewards([_rewarding(lambda x: x.mean())], NAMES, **SIZE, differentiable=False)


def test_the_probe_hands_over_what_training_will():
    seen = {}

    def reward(images, class_names, labels, *, image_features, seeds, step):
        seen.update(images=images, names=class_names, labels=labels, features=image_features, seeds=seeds)
        return image_features.mean(dim=1)

    probe_rewards([reward], NAMES, height=8, width=16, encoder=_Encoder())
    assert seen["images"].shape == (2, 3, 8, 16) and seen["features"].shape == (2, 3) and len(seen["seeds"]) == 2
    assert seen["names"] == NAMES and seen["labels"].tolist() == [0, 1]


def test_the_loss_refuses_a_reward_without_gradient_too():
    with pytest.raises(ValueError, match="'jpeg_size' is not differentiable"):
        UbGenLoss([JpegSizeReward()])


@pytest.mark.parametrize("method", ["ubgen", "ddpo"])
def test_the_commands_name_a_bad_reward_before_any_training(method, module, random_mini_model, tmp_path, capsys):
    reward = "jpeg_size" if method == "ubgen" else f"{module}:brightness"
    flags = ["--model_name_or_path", random_mini_model, "--class_names", *NAMES, "--output_dir", str(tmp_path / "out")]
    flags += ["--num_inference_steps", "4", "--use_cpu", "--clip_model", "mini", "--max_steps", "1"]
    flags += ["--num_gradient_steps", "1"] if method == "ubgen" else ["--per_device_train_batch_size", "2"]
    flags += ["--rollout_size", "2", "--num_trained_steps", "2"] if method == "ddpo" else []
    if method == "ddpo":
        (tmp_path / "my_own_rewards.py").write_text(MODULE.replace("mean(dim=(1, 2, 3))", "mean()"))
    code = import_module(f"ubgen_training.{method}.command").main([*flags, "--reward_funcs", reward])
    message = capsys.readouterr().err
    assert code == 2, message
    assert ("'jpeg_size' is not differentiable" if method == "ubgen" else "'brightness' returned ()") in message
    assert not (tmp_path / "out").exists()
